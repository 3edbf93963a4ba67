// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// visiblePod finds a pod by its id or the start of it. One that is still being
// made has an id that no client knows.
func (a *api) visiblePod(id string) (state.Pod, error) {
	p, err := a.Store.Pod(id)
	if err == nil && !p.Phase.Visible() {
		err = fmt.Errorf("pod %q: %w", id, errdefs.ErrNotFound)
	}
	return p, err
}

func (a *api) RunPodSandbox(ctx context.Context, r *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	in, err := newPod(r, a.Host)
	if err != nil {
		return nil, err
	}
	id, err := a.Sandboxes.Run(ctx, in)
	return &cri.RunPodSandboxResponse{PodSandboxId: string(id)}, err
}

func (a *api) StopPodSandbox(ctx context.Context, r *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	p, err := a.Store.Pod(r.GetPodSandboxId())
	if err == nil {
		err = a.Sandboxes.Stop(ctx, p.ID)
	}
	return &cri.StopPodSandboxResponse{}, ignoreNotFound(err)
}

func (a *api) RemovePodSandbox(ctx context.Context, r *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	p, err := a.Store.Pod(r.GetPodSandboxId())
	if err == nil {
		err = a.Sandboxes.Remove(ctx, p.ID)
	}
	return &cri.RemovePodSandboxResponse{}, ignoreNotFound(err)
}

// PodSandboxStatus leaves timestamp and containers_statuses empty: a kubelet
// with evented PLEG (KEP-3386) that finds a timestamp takes its containers from
// there, and kubelet 1.37 then counts none of them as active and makes init
// containers again and again. Without it the kubelet asks for each container.
func (a *api) PodSandboxStatus(ctx context.Context, r *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	p, err := a.visiblePod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &cri.PodSandboxStatusResponse{Status: podStatus(p)}
	if r.GetVerbose() {
		resp.Info, err = a.Sandboxes.Info(ctx, p.ID, infoRoom(resp))
	}
	return resp, err
}

func (a *api) ListPodSandbox(_ context.Context, r *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: a.podItems(r.GetFilter())}, nil
}

func (a *api) StreamPodSandboxes(r *cri.StreamPodSandboxesRequest, s grpc.ServerStreamingServer[cri.StreamPodSandboxesResponse]) error {
	return chunks(a.podItems(r.GetFilter()), func(some []*cri.PodSandbox) error {
		return s.Send(&cri.StreamPodSandboxesResponse{PodSandboxes: some})
	})
}

func (a *api) podItems(f *cri.PodSandboxFilter) []*cri.PodSandbox {
	var out []*cri.PodSandbox
	for p := range a.pods(filter{id: f.GetId(), labels: f.GetLabelSelector()}, f.GetState()) {
		out = append(out, podItem(p))
	}
	return out
}

func (a *api) UpdatePodSandboxResources(ctx context.Context, r *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	if err := checkPodResources(r, a.Host); err != nil {
		return nil, err
	}
	p, err := a.visiblePod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	err = a.Sandboxes.UpdateResources(ctx, p.ID, r.GetOverhead(), r.GetResources())
	return &cri.UpdatePodSandboxResourcesResponse{}, err
}

func (a *api) PortForward(_ context.Context, r *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	in, err := newPortForward(r)
	if err != nil {
		return nil, err
	}
	p, err := a.visiblePod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if p.Phase != state.PodReady {
		return nil, fmt.Errorf("port-forward: pod %s is %s: %w", p.ID, p.Phase, errdefs.ErrFailedPrecondition)
	}
	in.Pod = p.ID
	url, err := a.Stream.GetPortForward(in)
	return &cri.PortForwardResponse{Url: url}, err
}
