// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// gate keeps RPCs out while the daemon recovers and while it stops. The zero
// value is shut, for recovery.
type gate struct {
	mu      sync.Mutex // guards the fields below
	opened  bool
	closing bool
	endless map[*context.CancelCauseFunc]struct{} // of calls that only the end of the server ends
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = true
}

// close shuts the gate for good.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
	for cancel := range g.endless {
		(*cancel)(g.checkLocked())
	}
}

// check tells why RPCs can't be answered now; ErrUnavailable.
func (g *gate) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.checkLocked()
}

func (g *gate) checkLocked() error {
	switch {
	case g.closing:
		return fmt.Errorf("runtime is stopping: %w", errdefs.ErrUnavailable)
	case !g.opened:
		return fmt.Errorf("runtime is recovering after its start: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// until makes a context that ends when the gate closes, with that as its cause:
// for calls that would last for ever.
func (g *gate) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		cancel(g.checkLocked())
	}
	if g.endless == nil {
		g.endless = map[*context.CancelCauseFunc]struct{}{}
	}
	g.endless[&cancel] = struct{}{}
	return ctx, func() {
		cancel(nil)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.endless, &cancel)
	}
}
