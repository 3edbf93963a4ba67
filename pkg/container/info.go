// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Info is what a verbose ContainerStatus adds: pid, paths, trace and the OCI
// spec, as JSON under the key "info" like other runtimes have it. It takes at
// most room bytes.
func (s *Service) Info(_ context.Context, id state.ContainerID, room int) (map[string]string, error) {
	c, err := s.Store.Container(string(id))
	if err != nil {
		return nil, err
	}
	info := map[string]any{
		"sandboxID": c.Pod, "pid": c.PID, "phase": c.Phase, "rootfs": s.Layout.RootFS(c.ID),
		"bundle": s.Layout.Bundle(string(c.ID)), "cgroupsPath": c.Cgroup, "trace": c.Trace,
		"runtimeHandler": s.handlerOf(c),
	}
	spec, _ := s.Runtime.Spec(string(id)) // there may be none yet, or no more
	out, err := EncodeInfo(info, spec, room)
	if err != nil {
		return nil, fmt.Errorf("encode info of container %s: %w", id, err)
	}
	return out, nil
}

// EncodeInfo makes what a verbose status adds, in at most room bytes: the spec,
// if there is one, is left out when it does not fit, and then the rest.
func EncodeInfo(info map[string]any, spec *specs.Spec, room int) (map[string]string, error) {
	if spec != nil {
		info["runtimeSpec"] = spec
	}
	data, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	if len(data) > room && spec != nil {
		delete(info, "runtimeSpec")
		info["runtimeSpecOmitted"] = fmt.Sprintf("with it these are %d bytes, more than an answer holds", len(data))
		if data, err = json.Marshal(info); err != nil {
			return nil, err
		}
	}
	if len(data) > room {
		return nil, nil
	}
	return map[string]string{"info": string(data)}, nil
}

// Accounted tells whether Usage knows what a container uses, and its cgroup does not.
func (s *Service) Accounted(c state.Container) bool { return s.Runtime.Accounts(s.handlerOf(c)) }

// Usage is what the container uses by its runtime's account.
func (s *Service) Usage(ctx context.Context, c state.Container) (runc.Usage, error) {
	return s.Runtime.Usage(ctx, s.handlerOf(c), string(c.ID))
}
