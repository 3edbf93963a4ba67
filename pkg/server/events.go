// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// GetContainerEvents translates the change feed until the client leaves or the
// server stops. A client that reads too slowly, or not at all, gets
// ResourceExhausted after the last event without a gap before it: it must list
// again, and knows.
func (a *api) GetContainerEvents(_ *cri.GetEventsRequest, s grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	ctx, cancel := a.gate.until(s.Context())
	defer cancel()
	feed := a.Store.Watch()
	defer feed.Close()
	if err := s.SendHeader(nil); err != nil { // tells the client that it misses nothing from here
		return err
	}
	for {
		change, err := feed.Next(ctx)
		if err != nil {
			return fmt.Errorf("container events: %w", err)
		}
		if err := handOver(ctx, s, feed, a.event(ctx, change)); err != nil {
			return fmt.Errorf("container events: %w", err)
		}
	}
}

// handOver sends one event. Sending waits for a client that has stopped reading,
// for as long as the client keeps its connection; so it is given up when the
// feed has run over meanwhile, or the server stops.
func handOver(ctx context.Context, s grpc.ServerStreamingServer[cri.ContainerEventResponse], feed *state.Feed, e *cri.ContainerEventResponse) error {
	lagged, why := feed.Lagged()
	sent := make(chan error, 1)
	go func() { sent <- s.Send(e) }()
	select {
	case err := <-sent:
		return err
	case <-lagged:
		return why
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *api) event(ctx context.Context, c *state.Change) *cri.ContainerEventResponse {
	e := &cri.ContainerEventResponse{
		ContainerId: c.ID, ContainerEventType: eventType(c.Kind), CreatedAt: nanos(c.Time),
		ContainersStatuses: a.containerStatuses(ctx, c.Containers),
	}
	if c.Pod.ID != "" {
		e.PodSandboxStatus = podStatus(c.Pod)
	}
	return e
}

func eventType(k state.ChangeKind) cri.ContainerEventType {
	switch k {
	case state.ChangeStarted:
		return cri.ContainerEventType_CONTAINER_STARTED_EVENT
	case state.ChangeStopped:
		return cri.ContainerEventType_CONTAINER_STOPPED_EVENT
	case state.ChangeDeleted:
		return cri.ContainerEventType_CONTAINER_DELETED_EVENT
	default:
		return cri.ContainerEventType_CONTAINER_CREATED_EVENT
	}
}
