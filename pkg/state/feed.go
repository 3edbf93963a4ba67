// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// ChangeKind says what happened, in the words of CRI's ContainerEventType.
type ChangeKind string

// What readers of the feed are told.
const (
	ChangeCreated ChangeKind = "created"
	ChangeStarted ChangeKind = "started"
	ChangeStopped ChangeKind = "stopped"
	ChangeDeleted ChangeKind = "deleted"
)

// Change is one committed move of a pod or container, with the pod and its
// containers as they were at that moment.
type Change struct {
	Time       time.Time
	Kind       ChangeKind
	ID         string // of the container, or of the pod itself
	Pod        Pod    // of a container whose pod's record is lost it has no ID
	Containers []Container
}

// feedLimit is how many changes a reader may lag behind: a node full of pods
// restarting at once fits, a reader that hangs does not hold memory for ever.
const feedLimit = 8192

// Feed hands every change since Watch to one reader, in commit order.
type Feed struct {
	store  *Store
	more   chan struct{} // signals that queue or lost changed; holds one token
	lagged chan struct{} // closed when lost becomes true

	mu    sync.Mutex // guards the fields below
	queue []*Change
	lost  bool
}

// Watch starts a feed. Close it when done.
func (s *Store) Watch() *Feed {
	f := &Feed{store: s, more: make(chan struct{}, 1), lagged: make(chan struct{})}
	s.mu.Lock()
	s.feeds[f] = struct{}{}
	s.mu.Unlock()
	return f
}

// Close ends the feed.
func (f *Feed) Close() {
	f.store.mu.Lock()
	delete(f.store.feeds, f)
	f.store.mu.Unlock()
}

// Next waits for the next change. A reader that lagged more than 8192 changes
// gets ErrResourceExhausted, after the changes it can still have in order:
// a gap is never silent.
func (f *Feed) Next(ctx context.Context) (*Change, error) {
	for {
		f.mu.Lock()
		if len(f.queue) > 0 {
			c := f.queue[0]
			f.queue = f.queue[1:]
			f.mu.Unlock()
			return c, nil
		}
		lost := f.lost
		f.mu.Unlock()
		if lost {
			return nil, errLagged()
		}
		select {
		case <-f.more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Lagged is closed when the reader is too far behind to get every change. It is
// for those who are busy with a change, by handing it on to somebody who may
// never take it, and would not ask Next again; err is what Next would say.
func (f *Feed) Lagged() (done <-chan struct{}, err error) { return f.lagged, errLagged() }

func errLagged() error {
	return fmt.Errorf("read changes: more than %d behind: %w", feedLimit, errdefs.ErrResourceExhausted)
}

func (f *Feed) push(c *Change) {
	f.mu.Lock()
	switch {
	case f.lost:
	case len(f.queue) >= feedLimit:
		f.lost = true
		close(f.lagged)
	default:
		f.queue = append(f.queue, c)
	}
	f.mu.Unlock()
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// publishLocked tells every feed; it builds the snapshot only when somebody
// listens.
func (s *Store) publishLocked(kinds []ChangeKind, id string, row any) {
	if len(s.feeds) == 0 {
		return
	}
	for _, kind := range kinds {
		c := &Change{Time: time.Now(), Kind: kind, ID: id}
		podID := PodID(id)
		if container, ok := row.(Container); ok {
			podID = container.Pod
		}
		c.Pod, _ = s.pods.get(string(podID))
		c.Containers = s.containers.of(string(podID))
		if pod, ok := row.(Pod); ok {
			c.Pod = pod // its row is gone already when it was dropped
		}
		for f := range s.feeds {
			f.push(c)
		}
	}
}

func podChanges(from, to PodPhase) []ChangeKind {
	switch {
	case from == PodCreating && to == PodReady:
		return []ChangeKind{ChangeCreated, ChangeStarted}
	case from == PodReady && to != PodReady:
		return []ChangeKind{ChangeStopped}
	}
	return nil
}

func containerChanges(to Phase, e Event) []ChangeKind {
	switch {
	case e == Prepared:
		return []ChangeKind{ChangeCreated}
	case to == Running:
		return []ChangeKind{ChangeStarted}
	case to == Exited:
		return []ChangeKind{ChangeStopped}
	}
	return nil
}

// AwaitContainer returns the container's record as soon as done says so, and
// ErrNotFound once the record is dropped. It never polls.
func (s *Store) AwaitContainer(ctx context.Context, id ContainerID, done func(Container) bool) (Container, error) {
	f := s.Watch()
	defer f.Close()
	for {
		c, err := s.Container(string(id))
		if err != nil || done(c) {
			return c, err
		}
		if err := f.nextOf(ctx, string(id)); err != nil {
			return c, err
		}
	}
}

// nextOf waits for a change of one object.
func (f *Feed) nextOf(ctx context.Context, id string) error {
	for {
		c, err := f.Next(ctx)
		if err != nil || c.ID == id {
			return err
		}
	}
}
