// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"context"
	"sync"
)

// gate is what requests pass, so that an upgrade finds a moment without any.
type gate struct {
	mu   sync.Mutex // guards what follows
	busy int
	shut chan struct{} // not nil: closed to new ones; ends when open again
	idle chan struct{} // not nil: ends when busy becomes 0
}

// tryEnter goes in unless the gate is shut.
func (g *gate) tryEnter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		return false
	}
	g.busy++
	return true
}

// enter waits while the gate is shut.
func (g *gate) enter() {
	for !g.tryEnter() {
		g.awaitOpen()
	}
}

// awaitOpen returns when the gate is open, though it may be shut again by then.
func (g *gate) awaitOpen() {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

// stay is enter for one who is inside already.
func (g *gate) stay() {
	g.mu.Lock()
	g.busy++
	g.mu.Unlock()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy--
	if g.busy == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// close shuts the gate and waits until no request is inside, or opens it again when
// ctx ends first. One closer at a time.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	g.shut = make(chan struct{})
	idle := make(chan struct{})
	if g.busy == 0 {
		close(idle)
	} else {
		g.idle = idle
	}
	g.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		g.open()
		return context.Cause(ctx)
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut, g.idle = nil, nil
}
