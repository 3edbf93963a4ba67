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

// visibleContainer finds a container by its id or the start of it. One that is
// being made or being removed is not there for clients.
func (a *api) visibleContainer(id string) (state.Container, error) {
	c, err := a.Store.Container(id)
	if err == nil && !c.Phase.Visible() {
		err = fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return c, err
}

func (a *api) CreateContainer(ctx context.Context, r *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	in, err := newContainer(r, a.Host)
	if err != nil {
		return nil, err
	}
	for _, spec := range imagesOf(r.GetConfig()) {
		if err := a.checkImage("create container", spec); err != nil {
			return nil, err
		}
	}
	p, err := a.visiblePod(r.GetPodSandboxId())
	if err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	in.Pod = p.ID
	id, err := a.Containers.Create(ctx, in)
	return &cri.CreateContainerResponse{ContainerId: string(id)}, err
}

// imagesOf are the container's own image and those it mounts.
func imagesOf(c *cri.ContainerConfig) []*cri.ImageSpec {
	all := []*cri.ImageSpec{c.GetImage()}
	for _, m := range c.GetMounts() {
		if m.GetImage() != nil {
			all = append(all, m.GetImage())
		}
	}
	return all
}

func (a *api) StartContainer(ctx context.Context, r *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	c, err := a.visibleContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.StartContainerResponse{}, a.Containers.Start(ctx, c.ID)
}

func (a *api) StopContainer(ctx context.Context, r *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	grace, err := stopGrace(r)
	if err != nil {
		return nil, err
	}
	c, err := a.Store.Container(r.GetContainerId())
	if err == nil {
		err = a.Containers.Stop(ctx, c.ID, grace)
	}
	return &cri.StopContainerResponse{}, ignoreNotFound(err)
}

func (a *api) RemoveContainer(ctx context.Context, r *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	c, err := a.Store.Container(r.GetContainerId())
	if err == nil {
		err = a.Containers.Remove(ctx, c.ID)
	}
	return &cri.RemoveContainerResponse{}, ignoreNotFound(err)
}

func (a *api) ContainerStatus(ctx context.Context, r *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	c, err := a.visibleContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &cri.ContainerStatusResponse{Status: a.containerStatus(ctx, c)}
	if r.GetVerbose() {
		resp.Info, err = a.Containers.Info(ctx, c.ID, infoRoom(resp))
	}
	return resp, err
}

func (a *api) ListContainers(ctx context.Context, r *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: a.containerItems(ctx, r.GetFilter())}, nil
}

func (a *api) StreamContainers(r *cri.StreamContainersRequest, s grpc.ServerStreamingServer[cri.StreamContainersResponse]) error {
	return chunks(a.containerItems(s.Context(), r.GetFilter()), func(some []*cri.Container) error {
		return s.Send(&cri.StreamContainersResponse{Containers: some})
	})
}

func (a *api) containerItems(ctx context.Context, f *cri.ContainerFilter) []*cri.Container {
	var out []*cri.Container
	for c := range a.containers(filter{id: f.GetId(), pod: f.GetPodSandboxId(), labels: f.GetLabelSelector()}, f.GetState()) {
		out = append(out, a.containerItem(ctx, c))
	}
	return out
}

func (a *api) UpdateContainerResources(ctx context.Context, r *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	resources, err := newResources(r, a.Host)
	if err != nil {
		return nil, err
	}
	c, err := a.visibleContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.UpdateContainerResourcesResponse{}, a.Containers.UpdateResources(ctx, c.ID, resources)
}

func (a *api) ReopenContainerLog(ctx context.Context, r *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	c, err := a.visibleContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.ReopenContainerLogResponse{}, a.Containers.ReopenLog(ctx, c.ID)
}
