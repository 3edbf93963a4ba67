// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// Info is what a verbose ContainerStatus adds: pid, paths, trace and the OCI
// spec, as JSON under the key "info" like other runtimes have it.
func (s *Service) Info(_ context.Context, id state.ContainerID) (map[string]string, error) {
	c, err := s.Store.Container(string(id))
	if err != nil {
		return nil, err
	}
	info := map[string]any{
		"sandboxID": c.Pod, "pid": c.PID, "phase": c.Phase, "rootfs": s.Layout.RootFS(c.ID),
		"bundle": s.Layout.Bundle(string(c.ID)), "cgroupsPath": c.Cgroup, "trace": c.Trace,
		"runtimeHandler": s.handlerOf(c),
	}
	if spec, err := s.Runtime.Spec(string(id)); err == nil {
		info["runtimeSpec"] = spec
	}
	data, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encode info of container %s: %w", id, err)
	}
	return map[string]string{"info": string(data)}, nil
}
