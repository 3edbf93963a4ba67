// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"iter"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stats"
)

// measured is what pkg/stats needs to know of a container.
func (a *api) measured(c state.Container) stats.Container {
	out := stats.Container{
		ID: string(c.ID), Metadata: c.Config.GetMetadata(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		Image: c.ImageName, Cgroup: c.Cgroup, PID: c.PID, StartedAt: c.StartedAt, Resources: c.Resources.GetLinux(),
		Disk: func(ctx context.Context) (stats.Disk, error) {
			u, err := a.RootFS.Usage(ctx, string(c.ID))
			return stats.Disk{Mountpoint: a.RootFS.Mountpoint(), Bytes: u.Bytes, Inodes: u.Inodes}, err
		},
	}
	if c.Phase == state.Running && a.Containers.Accounted(c) {
		out.Account = func(ctx context.Context) (stats.Account, error) {
			u, err := a.Containers.Usage(ctx, c)
			return stats.Account{CPU: u.CPU, Memory: u.Memory}, err
		}
	}
	return out
}

// measuredPod is a pod with its running containers.
func (a *api) measuredPod(p state.Pod) stats.Pod {
	out := stats.Pod{
		ID: string(p.ID), Metadata: p.Config.GetMetadata(), Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(),
		CgroupParent: p.CgroupParent, PID: p.PausePID, NetNS: p.NetNS, CreatedAt: p.CreatedAt,
	}
	for _, c := range a.Store.ContainersOf(p.ID) {
		if c.Phase == state.Running {
			out.Containers = append(out.Containers, a.measured(c))
		}
	}
	return out
}

func (a *api) ContainerStats(ctx context.Context, r *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	c, err := a.visibleContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	items, err := a.Stats.Containers(ctx, []stats.Container{a.measured(c)})
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatsResponse{Stats: items[0]}, nil
}

func (a *api) ListContainerStats(ctx context.Context, r *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	items, err := a.containerStats(ctx, r.GetFilter())
	return &cri.ListContainerStatsResponse{Stats: items}, err
}

func (a *api) StreamContainerStats(r *cri.StreamContainerStatsRequest, s grpc.ServerStreamingServer[cri.StreamContainerStatsResponse]) error {
	items, err := a.containerStats(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return chunks(items, func(some []*cri.ContainerStats) error {
		return s.Send(&cri.StreamContainerStatsResponse{ContainerStats: some})
	})
}

// containerStats measures the running containers, by contract no others.
func (a *api) containerStats(ctx context.Context, f *cri.ContainerStatsFilter) ([]*cri.ContainerStats, error) {
	running := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	selected := a.containers(filter{id: f.GetId(), pod: f.GetPodSandboxId(), labels: f.GetLabelSelector()}, running)
	return a.Stats.Containers(ctx, convert(selected, a.measured))
}

func (a *api) PodSandboxStats(ctx context.Context, r *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	p, err := a.visiblePod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	items, err := a.Stats.Pods(ctx, []stats.Pod{a.measuredPod(p)})
	if err != nil {
		return nil, err
	}
	return &cri.PodSandboxStatsResponse{Stats: items[0]}, nil
}

func (a *api) ListPodSandboxStats(ctx context.Context, r *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	items, err := a.podStats(ctx, r.GetFilter())
	return &cri.ListPodSandboxStatsResponse{Stats: items}, err
}

func (a *api) StreamPodSandboxStats(r *cri.StreamPodSandboxStatsRequest, s grpc.ServerStreamingServer[cri.StreamPodSandboxStatsResponse]) error {
	items, err := a.podStats(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return chunks(items, func(some []*cri.PodSandboxStats) error {
		return s.Send(&cri.StreamPodSandboxStatsResponse{PodSandboxStats: some})
	})
}

func (a *api) podStats(ctx context.Context, f *cri.PodSandboxStatsFilter) ([]*cri.PodSandboxStats, error) {
	selected := a.readyPods(filter{id: f.GetId(), labels: f.GetLabelSelector()})
	return a.Stats.Pods(ctx, convert(selected, a.measuredPod))
}

func (a *api) ListMetricDescriptors(context.Context, *cri.ListMetricDescriptorsRequest) (*cri.ListMetricDescriptorsResponse, error) {
	return &cri.ListMetricDescriptorsResponse{Descriptors: a.Stats.Descriptors()}, nil
}

func (a *api) ListPodSandboxMetrics(ctx context.Context, _ *cri.ListPodSandboxMetricsRequest) (*cri.ListPodSandboxMetricsResponse, error) {
	items, err := a.podMetrics(ctx)
	return &cri.ListPodSandboxMetricsResponse{PodMetrics: items}, err
}

func (a *api) StreamPodSandboxMetrics(_ *cri.StreamPodSandboxMetricsRequest, s grpc.ServerStreamingServer[cri.StreamPodSandboxMetricsResponse]) error {
	items, err := a.podMetrics(s.Context())
	if err != nil {
		return err
	}
	return chunks(items, func(some []*cri.PodSandboxMetrics) error {
		return s.Send(&cri.StreamPodSandboxMetricsResponse{PodSandboxMetrics: some})
	})
}

func (a *api) podMetrics(ctx context.Context) ([]*cri.PodSandboxMetrics, error) {
	return a.Stats.Metrics(ctx, convert(a.readyPods(filter{}), a.measuredPod))
}

// readyPods are those that have something to measure.
func (a *api) readyPods(f filter) iter.Seq[state.Pod] {
	return a.pods(f, &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY})
}

func convert[R, S any](all iter.Seq[R], one func(R) S) []S {
	var out []S
	for r := range all {
		out = append(out, one(r))
	}
	return out
}
