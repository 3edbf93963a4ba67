// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type idCall struct {
	name       string
	idempotent bool // CRI: no error for an object that is gone
	call       func(ctx context.Context, r cri.RuntimeServiceClient, id string) error
}

func podCalls() []idCall {
	return []idCall{
		{"StopPodSandbox", true, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
			return err
		}},
		{"RemovePodSandbox", true, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
			return err
		}},
		{"PodSandboxStatus", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id})
			return err
		}},
		{"PodSandboxStats", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: id})
			return err
		}},
		{"PortForward", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: id, Port: []int32{80}})
			return err
		}},
		{"UpdatePodSandboxResources", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: id, Resources: &cri.LinuxContainerResources{CpuShares: 2}})
			return err
		}},
		{"CreateContainer", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: id, Config: nodetest.ContainerConfig("x")})
			return err
		}},
	}
}

func containerCalls() []idCall {
	return []idCall{
		{"StartContainer", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
			return err
		}},
		{"StopContainer", true, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id})
			return err
		}},
		{"RemoveContainer", true, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
			return err
		}},
		{"ContainerStatus", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
			return err
		}},
		{"ContainerStats", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
			return err
		}},
		{"UpdateContainerResources", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 2}})
			return err
		}},
		{"ReopenContainerLog", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
			return err
		}},
		{"ExecSync", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{tb}})
			return err
		}},
		{"Exec", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{tb}, Stdout: true})
			return err
		}},
		{"Attach", false, func(ctx context.Context, r cri.RuntimeServiceClient, id string) error {
			_, err := r.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdout: true})
			return err
		}},
	}
}

// Every RPC that takes an id says which object it does not know, which prefix
// means several, and that one is missing.
func TestIDs(t *testing.T) {
	d := node(t)
	ctx := t.Context()
	pods, configs := clashing(t, func(i int) (string, *cri.PodSandboxConfig) { return quickPod(t, d, fmt.Sprintf("ids-%d", i)) })
	containers, _ := clashing(t, func(i int) (string, *cri.PodSandboxConfig) {
		return d.Create(t, pods, inHostNet(fmt.Sprintf("ids-%d", i), "sleep"), configs), configs
	})
	unknown := strings.Repeat("0123456789abcdef", 4)
	for kind, group := range map[string][]idCall{pods: podCalls(), containers: containerCalls()} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				if err := c.call(ctx, d.Runtime, unknown); c.idempotent && err != nil {
					t.Errorf("unknown id: %v", err)
				} else if !c.idempotent {
					code(t, err, codes.NotFound, unknown)
				}
				code(t, c.call(ctx, d.Runtime, kind[:1]), codes.InvalidArgument, fmt.Sprintf("%q", kind[:1]), "ambiguous")
				code(t, c.call(ctx, d.Runtime, ""), codes.InvalidArgument)
				if err := c.call(ctx, d.Runtime, "../../etc"); !c.idempotent && status.Code(err) != codes.NotFound {
					t.Errorf("an id with a path in it: %v", err)
				}
			})
		}
	}
	l, err := d.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: unknown}})
	if err != nil || len(l.Containers) != 0 {
		t.Errorf("a list of an unknown id: %v, %v", l, err)
	}
	img, err := d.Images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "cri-shim.test/none:1"}})
	if err != nil || img.Image != nil {
		t.Errorf("status of an unknown image: %v, %v; want an empty answer", img, err)
	}
	if _, err := d.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "cri-shim.test/none:1"}}); err != nil {
		t.Errorf("removal of an unknown image: %v", err)
	}
	for name, err := range map[string]error{
		"CheckpointContainer": func() error {
			_, err := d.Runtime.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: containers})
			return err
		}(),
	} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// clashing makes objects until two ids begin alike, which 17 must, and returns
// the last one.
func clashing(t *testing.T, make func(i int) (string, *cri.PodSandboxConfig)) (string, *cri.PodSandboxConfig) {
	seen := map[byte]bool{}
	for i := 0; ; i++ {
		id, config := make(i)
		if seen[id[0]] {
			return id, config
		}
		seen[id[0]] = true
	}
}
