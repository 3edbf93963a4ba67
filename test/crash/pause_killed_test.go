// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPauseKilled ends the process that holds a pod together.
func TestPauseKilled(t *testing.T) {
	d := start(t)
	warm(t, d)
	clean := d.Look(t)
	w := started(t, d)
	events, err := d.Runtime.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan *cri.ContainerEventResponse, 64)
	go func() {
		for {
			e, err := events.Recv()
			if err != nil {
				close(told)
				return
			}
			told <- e
		}
	}()
	status := func() *cri.PodSandboxStatusResponse {
		r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: w.pod, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	time.Sleep(50 * time.Millisecond) // the stream has no answer that says it listens
	syscall.Kill(pidIn(t, status().Info["info"]), syscall.SIGKILL)
	nodetest.Eventually(t, 10*time.Second, "the pod is not ready", func() bool {
		return status().Status.State == cri.PodSandboxState_SANDBOX_NOTREADY
	})
	if info := status().Info["info"]; !strings.Contains(info, "PauseExited") || !strings.Contains(info, "signal 9") {
		t.Errorf("info gives no reason: %s", info)
	}
	if s := d.AwaitExit(t, w.id); s.ExitCode != 137 {
		t.Errorf("container: %v", s)
	}
	awaitStopped(t, told, w.pod)
	if err := w.start(); err == nil {
		t.Error("a container starts in a dead pod")
	}
	w.removeAll()
	d.AwaitSame(t, clean, "after the pod's removal")
}

func pidIn(t testing.TB, info string) int {
	t.Helper()
	_, rest, ok := strings.Cut(info, `"pid":`)
	end := strings.IndexAny(rest, ",}")
	if !ok || end < 0 {
		t.Fatalf("no pid in %s", info)
	}
	pid, err := strconv.Atoi(rest[:end])
	if err != nil || pid <= 1 {
		t.Fatalf("pid %d in %s", pid, info)
	}
	return pid
}

func awaitStopped(t *testing.T, told <-chan *cri.ContainerEventResponse, pod string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case e, open := <-told:
			if !open {
				t.Fatal("the events end")
			}
			if e.ContainerId == pod && e.ContainerEventType == cri.ContainerEventType_CONTAINER_STOPPED_EVENT {
				return
			}
		case <-limit:
			t.Fatal("no event tells of the pod's end")
		}
	}
}

// TestPauseKilledWhileAway ends pause while neither daemon nor monitor runs.
func TestPauseKilledWhileAway(t *testing.T) {
	d := start(t)
	w := started(t, d)
	r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: w.pod, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	monitor := d.MonitorPID()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(monitor, syscall.SIGKILL)
	syscall.Kill(pidIn(t, r.Info["info"]), syscall.SIGKILL)
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 10*time.Second, "the pod is not ready", func() bool { return w.podState() == notReady })
	d.AwaitExit(t, w.id)
	w.removeAll()
}
