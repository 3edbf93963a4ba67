// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"sync"
	"time"
)

const (
	walksAtWork = 2               // directories read at once, of the whole node
	walksBegun  = 8               // walks that are not over: each may hold 65 descriptors and some megabytes
	walkTurn    = time.Second     // how long one walk is at work while others wait
	walkHangs   = 5 * time.Second // without progress: the filesystem does not answer, and others need not wait for it
)

// walkers lets few walks through directories run side by side. Walks take turns, so that a small directory need not wait
// for the end of a large one; and one that hangs, at a mount whose server is gone, makes room for others until it goes on.
type walkers struct {
	begun, working chan struct{} // hold one element for each walk
}

func newWalkers() *walkers {
	return &walkers{begun: make(chan struct{}, walksBegun), working: make(chan struct{}, walksAtWork)}
}

// turn is one walk's place among the walkers.
type turn struct {
	w *walkers

	mu      sync.Mutex // guards the rest
	begun   bool       // holds an element of begun
	working bool       // holds an element of working
	since   time.Time
	hangs   *time.Timer
}

// begin waits for a place. The error is that of ctx.
func (w *walkers) begin(ctx context.Context) (*turn, error) {
	if err := enter(ctx, w.begun); err != nil {
		return nil, err
	}
	t := &turn{w: w, begun: true}
	if err := t.work(ctx); err != nil {
		t.end()
		return nil, err
	}
	return t, nil
}

func enter(ctx context.Context, room chan struct{}) error {
	select {
	case room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// work waits until it is this walk's turn.
func (t *turn) work(ctx context.Context) error {
	if err := enter(ctx, t.w.working); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.working, t.since = true, time.Now()
	t.hangs = time.AfterFunc(walkHangs, t.end)
	return nil
}

// goOn is called by the walk whenever it has got on. When its turn is over it waits for the next one, or for the end of
// ctx.
func (t *turn) goOn(ctx context.Context) {
	t.mu.Lock()
	t.hangs.Stop()
	if t.working && time.Since(t.since) < walkTurn {
		t.hangs.Reset(walkHangs)
		t.mu.Unlock()
		return
	}
	t.rest()
	t.mu.Unlock()
	_ = t.work(ctx) // the walk looks at ctx itself
}

// rest lets another walk work.
func (t *turn) rest() {
	if t.working {
		t.working = false
		<-t.w.working
	}
}

// end gives the place away, at the end of the walk or because it hangs.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hangs != nil {
		t.hangs.Stop()
	}
	t.rest()
	if t.begun {
		t.begun = false
		<-t.w.begun
	}
}
