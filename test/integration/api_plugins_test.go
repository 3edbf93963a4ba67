// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// witness is an NRI plugin that keeps what it is told of pods' resources.
type witness struct {
	pods    chan *api.PodSandbox // of RunPodSandbox and PostUpdatePodSandbox
	synced  chan []*api.PodSandbox
	updates chan [2]*api.LinuxResources
}

func (w *witness) Synchronize(_ context.Context, pods []*api.PodSandbox, _ []*api.Container) ([]*api.ContainerUpdate, error) {
	w.synced <- pods
	return nil, nil
}

func (w *witness) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	w.pods <- pod
	return nil
}

func (w *witness) UpdatePodSandbox(_ context.Context, _ *api.PodSandbox, overhead, resources *api.LinuxResources) error {
	w.updates <- [2]*api.LinuxResources{overhead, resources}
	return nil
}

func (w *witness) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	w.pods <- pod
	return nil
}

// connect brings the plugin to a daemon and returns the pods it is told of.
func (w *witness) connect(t *testing.T, d *nodetest.Node) []*api.PodSandbox {
	t.Helper()
	s, err := stub.New(w, stub.WithPluginName("witness"), stub.WithPluginIdx("10"), stub.WithSocketPath(filepath.Join(d.Dir, "nri.sock")), stub.WithOnClose(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return received(t, w.synced)
}

func received[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing within %s", patience)
	}
	panic("not reached")
}

// A pod's overhead and resources, and their updates, are recorded and told to
// plugins, also to those that connect after a restart of the daemon.
func TestPodResourcesReachPlugins(t *testing.T) {
	t.Parallel()
	d := edited(t, func(_ *nodetest.Node, config string) string {
		return strings.Replace(config, "[nri]\nenable = false", "[nri]\nenable = true", 1)
	}, nodetest.Preload(t))
	w := &witness{pods: make(chan *api.PodSandbox, 8), synced: make(chan []*api.PodSandbox, 8), updates: make(chan [2]*api.LinuxResources, 8)}
	if pods := w.connect(t, d); len(pods) != 0 {
		t.Errorf("pods of an empty node: %v", pods)
	}
	check := func(what string, l *api.LinuxPodSandbox, overhead, resources int64) {
		t.Helper()
		if o, r := l.GetPodOverhead().GetMemory().GetLimit().GetValue(), l.GetPodResources().GetMemory().GetLimit().GetValue(); o != overhead || r != resources {
			t.Errorf("%s: memory of overhead %d, of resources %d; want %d and %d", what, o, r, overhead, resources)
		}
	}
	config := hostNet(d.PodConfig("sized"))
	config.Linux.Overhead = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 25000, MemoryLimitInBytes: 10 << 20}
	config.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 100 << 20}
	pod := d.Pod(t, config)
	seen := received(t, w.pods)
	check("RunPodSandbox", seen.Linux, 10<<20, 100<<20)
	if q := seen.Linux.PodOverhead.GetCpu().GetQuota().GetValue(); q != 25000 {
		t.Errorf("quota of the overhead is %d", q)
	}
	if _, err := d.Runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod, Overhead: &cri.LinuxContainerResources{MemoryLimitInBytes: 20 << 20}, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 200 << 20},
	}); err != nil {
		t.Fatal(err)
	}
	asked := received(t, w.updates)
	if o, r := asked[0].GetMemory().GetLimit().GetValue(), asked[1].GetMemory().GetLimit().GetValue(); o != 20<<20 || r != 200<<20 {
		t.Errorf("UpdatePodSandbox: overhead %d, resources %d", o, r)
	}
	check("PostUpdatePodSandbox", received(t, w.pods).Linux, 20<<20, 200<<20)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pods := w.connect(t, d); len(pods) != 1 {
		t.Errorf("pods after a restart: %v", pods)
	} else {
		check("after a restart", pods[0].Linux, 20<<20, 200<<20)
	}
}
