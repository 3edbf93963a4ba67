// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func stopWithin(t *testing.T, d *nodetest.Node, id string, grace int64) {
	t.Helper()
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: grace}); err != nil {
		t.Error(err)
	}
}

// cgroupsOf are the directories of a container's cgroup that are there.
func cgroupsOf(cgroupsPath string) (there []string) {
	for _, dir := range cgroup.Dirs(cgroupsPath) {
		if _, err := os.Stat(dir); err == nil {
			there = append(there, dir)
		}
	}
	return there
}

// When a stop is answered, or a container is seen to have exited, its cgroup is
// gone: a kubelet that shrinks the pod's cgroup next is refused on cgroup v1 as
// long as a child has more.
func TestEndLeavesNoCgroup(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "ends")
	shared := hostNet(d.PodConfig("shared"))
	shared.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	sharedPod := d.Pod(t, shared)
	inShared := func(name string, args ...string) *cri.ContainerConfig {
		c := inHostNet(name, args...)
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		return c
	}
	gone := func(t *testing.T, path string) {
		t.Helper()
		if there := cgroupsOf(path); len(there) > 0 {
			t.Errorf("still there: %v", there)
		}
	}
	for i := range 5 {
		for name, grace := range map[string]int64{"killed": 0, "asked": 20} {
			t.Run(name, func(t *testing.T) {
				id := d.Run(t, pod, inHostNet(fmt.Sprint(name, i), "sleep"), p)
				path := info(t, d, id).CgroupsPath
				if len(cgroupsOf(path)) == 0 {
					t.Fatalf("no cgroup %s while it runs", path)
				}
				d.AwaitLog(t, fmt.Sprint(name, i), "sleeping")
				stopWithin(t, d, id, grace)
				gone(t, path)
			})
		}
		t.Run("by itself", func(t *testing.T) {
			events := watch(t, d)
			id := d.Run(t, pod, inHostNet(fmt.Sprint("self", i), "exit", "3"), p)
			told(t, events, 3)
			gone(t, info(t, d, id).CgroupsPath)
		})
		t.Run("with survivors", func(t *testing.T) {
			id := d.Run(t, sharedPod, inShared(fmt.Sprint("survivors", i), "tree", "1000"), shared)
			path := info(t, d, id).CgroupsPath
			stopWithin(t, d, id, 0)
			gone(t, path)
		})
	}
	id := d.Run(t, pod, inHostNet("last", "stubborn"), p)
	path := info(t, d, id).CgroupsPath
	if _, err := d.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	gone(t, path)
}

// What the freezer of cgroup v1 holds is killed all the same.
func TestFrozenContainerIsKilled(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "frozen")
	freeze := func(id string) {
		t.Helper()
		for _, dir := range cgroupsOf(info(t, d, id).CgroupsPath) {
			for name, text := range map[string]string{"freezer.state": "FROZEN", "cgroup.freeze": "1"} {
				if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
					mustWrite(t, filepath.Join(dir, name), text)
				}
			}
		}
	}
	one, other := d.Run(t, pod, inHostNet("one", "sleep"), p), d.Run(t, pod, inHostNet("other", "sleep"), p)
	freeze(one)
	stopWithin(t, d, one, 1)
	if st := d.Status(t, one); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 {
		t.Errorf("a frozen container that was stopped: %v", st)
	}
	freeze(other)
	if _, err := d.Runtime.RemovePodSandbox(nodetest.Within(t, patience), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Errorf("remove a pod with a frozen container: %v", err)
	}
}

// No container runs in a pod whose stop was answered, whenever it was started.
func TestStartWhilePodStops(t *testing.T) {
	d := node(t)
	for i := range 12 {
		name := fmt.Sprint("race-", i)
		config := hostNet(d.PodConfig(name))
		pod := d.Pod(t, config)
		var ids []string
		for c := range 4 {
			ids = append(ids, d.Create(t, pod, inHostNet(fmt.Sprint(name, "-", c), "sleep"), config))
		}
		var g sync.WaitGroup
		for _, id := range ids {
			g.Go(func() {
				_, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
				if c := status.Code(err); c != codes.OK && c != codes.FailedPrecondition {
					t.Errorf("start while the pod stops: %v", err)
				}
			})
		}
		if _, err := d.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if st := d.Status(t, id); st.State == cri.ContainerState_CONTAINER_RUNNING {
				t.Errorf("round %d: %s runs in a stopped pod", i, id)
			}
		}
		g.Wait()
		for _, id := range ids {
			if st := d.Status(t, id); st.State == cri.ContainerState_CONTAINER_RUNNING {
				t.Errorf("round %d: %s runs in a stopped pod, later", i, id)
			}
			_, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
			code(t, err, codes.FailedPrecondition, id[:12])
		}
		removePod(t, d, pod)
	}
}
