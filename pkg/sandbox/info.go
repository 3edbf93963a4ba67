// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/container/nriview"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// Info is what a verbose PodSandboxStatus adds: the pause pid, paths, how long
// each step of the start took and the OCI spec of pause. It takes at most room
// bytes.
func (s *Service) Info(_ context.Context, id state.PodID, room int) (map[string]string, error) {
	p, err := s.Store.Pod(string(id))
	if err != nil {
		return nil, err
	}
	info := map[string]any{
		"pid": p.PausePID, "phase": p.Phase, "reason": p.Reason, "message": p.Message, "netns": p.NetNS,
		"files": s.Layout.PodFiles(p.ID), "bundle": s.Layout.Bundle(string(p.ID)),
		"cgroupsPath": p.Cgroup, "runtimeHandler": p.Handler, "trace": p.Trace,
	}
	spec, _ := s.Runtime.Spec(string(id)) // there may be none yet, or no more
	out, err := container.EncodeInfo(info, spec, room)
	if err != nil {
		return nil, fmt.Errorf("encode info of pod %s: %w", id, err)
	}
	return out, nil
}

// NetNSPath is the network namespace that port-forwarding dials in; "" on the
// host's network. Only a ready pod has one to dial in.
func (s *Service) NetNSPath(id state.PodID) (string, error) {
	p, err := s.Store.Pod(string(id))
	if err != nil {
		return "", err
	}
	if p.Phase != state.PodReady {
		return "", fmt.Errorf("pod %s is %s: %w", p.ID, p.Phase, errdefs.ErrFailedPrecondition)
	}
	return p.NetNS, nil
}

// Forward connects to a port of a pod whose network its runtime has taken into a
// sandbox. Of other pods it knows nothing, and says that with a nil connection.
func (s *Service) Forward(ctx context.Context, id state.PodID, port int32) (net.Conn, error) {
	p, err := s.Store.Pod(string(id))
	if err != nil {
		return nil, err
	}
	if h, err := s.Runtime.Handler(p.Handler); err != nil || !h.NetworkFirst || p.Phase != state.PodReady {
		return nil, err
	}
	return s.Runtime.Forward(ctx, p.Handler, string(id), port)
}

// UpdateResources records what the kubelet gave the pod. The kubelet writes
// the pod's cgroup itself; the record is for status and plugins.
func (s *Service) UpdateResources(ctx context.Context, id state.PodID, overhead, resources *cri.LinuxContainerResources) error {
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	p, err := s.Store.Pod(string(id))
	if err != nil {
		return err
	}
	if err := s.Plugins.UpdatePodSandbox(ctx, nriview.Pod(p), overhead, resources); err != nil {
		return fmt.Errorf("update resources of pod %s: %w", id, err)
	}
	p, err = s.Store.UpdatePod(id, func(p *state.Pod) {
		if overhead != nil {
			p.Overhead = overhead
		}
		if resources != nil {
			p.Resources = resources
		}
	})
	if err != nil {
		return fmt.Errorf("update resources of pod %s: %w", id, err)
	}
	s.Plugins.PostUpdatePodSandbox(ctx, nriview.Pod(p))
	return nil
}
