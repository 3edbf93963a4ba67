// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/await"
)

// inMemory keeps the records of a test that writes thousands of them in memory,
// where flushing them costs nothing.
func inMemory(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

func (n *node) watch(t *testing.T) grpc.ServerStreamingClient[cri.ContainerEventResponse] {
	t.Helper()
	events, err := n.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	return events
}

// A reader that stops reading: the others get every event in order, its own
// call ends with an error, and what it can still read has no gap.
func TestEventReaderThatStops(t *testing.T) {
	inMemory(t)
	n := openNode(t)
	stuck, readers := n.watch(t), []grpc.ServerStreamingClient[cri.ContainerEventResponse]{n.watch(t), n.watch(t)}
	p := n.addPod(t, testPod("p"))
	const containers = 4500 // two events each: more than the feed's 8192
	want := make([]string, 0, 2*containers+2)
	note := func(kind cri.ContainerEventType, id string) { want = append(want, fmt.Sprint(kind, id)) }
	note(cri.ContainerEventType_CONTAINER_CREATED_EVENT, string(p.ID))
	note(cri.ContainerEventType_CONTAINER_STARTED_EVENT, string(p.ID))
	for range containers {
		c := testContainer(p, "c")
		note(cri.ContainerEventType_CONTAINER_CREATED_EVENT, string(c.ID))
		note(cri.ContainerEventType_CONTAINER_DELETED_EVENT, string(c.ID))
	}
	verdicts := make(chan error, len(readers))
	for _, r := range readers {
		go func() { verdicts <- readEvents(r, want) }()
	}
	for i := 2; i < len(want); i += 2 {
		c := testContainer(p, "c")
		c.ID = state.ContainerID(strings.TrimPrefix(want[i], fmt.Sprint(cri.ContainerEventType_CONTAINER_CREATED_EVENT)))
		n.addContainer(t, c, state.Prepared, state.Remove)
		if err := n.store.DropContainer(c.ID); err != nil {
			t.Fatal(err)
		}
	}
	for range readers {
		if err := <-verdicts; err != nil {
			t.Error(err)
		}
	}
	// Nobody has to read for that.
	await.Until(t, 10*time.Second, "the call of the reader that stopped ends", func() bool {
		for line := range strings.Lines(n.log.String()) {
			if strings.Contains(line, "rpc=GetContainerEvents") && strings.Contains(line, "code=ResourceExhausted") {
				return true
			}
		}
		return false
	})
	for i := 0; ; i++ {
		e, err := stuck.Recv()
		if err != nil {
			if status.Code(err) != codes.ResourceExhausted || i == 0 {
				t.Errorf("after %d events the reader that stopped is told %v", i, err)
			}
			return
		}
		if got := fmt.Sprint(e.ContainerEventType, e.ContainerId); got != want[i] {
			t.Fatalf("event %d is %s, want %s", i, got, want[i])
		}
	}
}

func readEvents(events grpc.ServerStreamingClient[cri.ContainerEventResponse], want []string) error {
	for i, w := range want {
		e, err := events.Recv()
		if err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
		if got := fmt.Sprint(e.ContainerEventType, e.ContainerId); got != w {
			return fmt.Errorf("event %d is %s, want %s", i, got, w)
		}
	}
	return nil
}
