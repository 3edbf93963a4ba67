// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

type eventStream = grpc.ServerStreamingClient[cri.ContainerEventResponse]

// watch is a reader of events that misses nothing from here on.
func watch(t *testing.T, d *nodetest.Node) eventStream {
	t.Helper()
	s, err := d.Runtime.GetContainerEvents(nodetest.Within(t, time.Minute), &cri.GetEventsRequest{})
	if err == nil {
		_, err = s.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// told reads n events and returns them as "KIND id".
func told(t *testing.T, s eventStream, n int) (got []string, events []*cri.ContainerEventResponse) {
	t.Helper()
	for range n {
		e, err := s.Recv()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		kind := strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
		got, events = append(got, kind+" "+e.ContainerId), append(events, e)
	}
	return got, events
}

// stop stops a container at once.
func stop(t *testing.T, d *nodetest.Node, id string) {
	t.Helper()
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 10}); err != nil {
		t.Error(err)
	}
}

// Several readers are told the same: each move of each object once, in order,
// with the pod and all its containers as they were then. One that does not read
// is in nobody's way.
func TestContainerEvents(t *testing.T) {
	d := node(t)
	readers := []eventStream{watch(t, d), watch(t, d)}
	watch(t, d) // never read
	config := hostNet(d.PodConfig("events"))
	pod := d.Pod(t, config)
	id := d.Run(t, pod, inHostNet("app", "sleep"), config)
	stop(t, d, id)
	other := d.Run(t, pod, inHostNet("short", "exit", "3"), config)
	d.AwaitExit(t, other)
	remove(t, d, id)
	removePod(t, d, pod)
	want := []string{
		"CREATED " + pod, "STARTED " + pod, "CREATED " + id, "STARTED " + id, "STOPPED " + id,
		"CREATED " + other, "STARTED " + other, "STOPPED " + other, "DELETED " + id,
	}
	containers := []int{0, 0, 1, 1, 1, 2, 2, 2, 1}
	for _, r := range readers {
		got, events := told(t, r, len(want))
		if !slices.Equal(got, want) {
			t.Fatalf("events %v\nwant   %v", got, want)
		}
		last := int64(0)
		for i, e := range events {
			if e.PodSandboxStatus.GetId() != pod || len(e.ContainersStatuses) != containers[i] || e.CreatedAt < last {
				t.Errorf("%s: pod %q, %d containers, want %d", got[i], e.PodSandboxStatus.GetId(), len(e.ContainersStatuses), containers[i])
			}
			last = e.CreatedAt
		}
		if s := events[4].ContainersStatuses[0]; s.State != cri.ContainerState_CONTAINER_EXITED || s.FinishedAt == 0 {
			t.Errorf("status in the stop: %v", s)
		}
		if s := events[3].ContainersStatuses[0]; s.State != cri.ContainerState_CONTAINER_RUNNING || s.StartedAt == 0 {
			t.Errorf("status in the start: %v", s)
		}
		if s := events[7].ContainersStatuses[1]; s.Id != other || s.ExitCode != 3 {
			t.Errorf("status in the end: %v", s)
		}
		rest, events := told(t, r, 3)
		if !slices.Equal(rest, []string{"STOPPED " + pod, "DELETED " + other, "DELETED " + pod}) {
			t.Errorf("the end is %v", rest)
		}
		if e := events[2]; e.ContainerId != pod || e.ContainerEventType != cri.ContainerEventType_CONTAINER_DELETED_EVENT || e.PodSandboxStatus == nil {
			t.Errorf("the last event is %v", e)
		}
	}
}

// A restart of the daemon ends the readers' calls; new ones are told of what
// happens to old containers.
func TestContainerEventsAfterRestart(t *testing.T) {
	d := node(t)
	pod, config := quickPod(t, d, "events")
	id := d.Run(t, pod, inHostNet("app", "sleep"), config)
	before := watch(t, d)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := before.Recv()
	code(t, err, codes.Unavailable)
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := watch(t, d)
	stop(t, d, id)
	remove(t, d, id)
	if got, _ := told(t, after, 2); !slices.Equal(got, []string{"STOPPED " + id, "DELETED " + id}) {
		t.Errorf("events %v", got)
	}
}

// The pod's status has no timestamp and no containers: a kubelet with evented
// PLEG makes init containers for ever when it finds them. Events do have them.
func TestPodSandboxStatusLeavesContainersOut(t *testing.T) {
	d := node(t)
	pod, config := quickPod(t, d, "status")
	d.Run(t, pod, inHostNet("a", "sleep"), config)
	for _, verbose := range []bool{false, true} {
		r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: verbose})
		if err != nil {
			t.Fatal(err)
		}
		if r.Timestamp != 0 || len(r.ContainersStatuses) > 0 {
			t.Errorf("verbose %v: timestamp %d, containers %v", verbose, r.Timestamp, r.ContainersStatuses)
		}
	}
}
