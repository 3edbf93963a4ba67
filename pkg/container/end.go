// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// waiter is a call that waits until a container's end is recorded.
type waiter struct {
	id   state.ContainerID
	give context.CancelCauseFunc
}

// awaitEnd returns when the container's end is on record, or its record gone.
// When the end has come and cannot be recorded, the error says so at once: the
// record is what everybody else goes by, and it may be long in coming.
func (s *Service) awaitEnd(ctx context.Context, id state.ContainerID) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.enlist(&waiter{id: id, give: cancel})()
	_, err := s.Store.AwaitContainer(ctx, id, func(c state.Container) bool { return !c.Phase.Live() })
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *Service) enlist(w *waiter) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[w] = true
	if err := s.refused[w.id]; err != nil {
		w.give(err)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiters, w)
	}
}

// noteEnd tells who waits why an end is not on record. Without an error it is.
func (s *Service) noteEnd(id state.ContainerID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.refused, id)
		return
	}
	err = fmt.Errorf("the container has ended, but the record cannot be written: %w: %w", err, errdefs.ErrUnavailable)
	s.refused[id] = err
	for w := range s.waiters {
		if w.id == id {
			w.give(err)
		}
	}
}
