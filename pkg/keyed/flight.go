// SPDX-License-Identifier: Apache-2.0

package keyed

import (
	"context"
	"sync"
)

// Flight runs one call per key at a time, which everybody joins who wants the
// same. The zero value is ready.
type Flight[K comparable, V any] struct {
	Idle func() // called after the end of a call if no other runs; nil: not. Set before the first call.

	mu      sync.Mutex // guards running and closed
	running map[K]*call[V]
	closed  error // why no more calls begin
	calls   sync.WaitGroup
}

type call[V any] struct {
	cancel  context.CancelCauseFunc
	waiters int // guarded by Flight.mu
	done    chan struct{}
	value   V // with err: written before done is closed
	err     error
}

// Do runs the call, or joins the one under way, and returns its result or the
// cause of ctx's end, whichever is first. run sees the values of the first
// caller's ctx, and its end is that of the last caller: when all have left, it is
// cut off, and the next caller begins a new one beside it.
func (f *Flight[K, V]) Do(ctx context.Context, key K, run func(context.Context) (V, error)) (V, error) {
	var none V
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	c, err := f.join(ctx, key, run)
	if err != nil {
		return none, err
	}
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		f.leave(key, c, context.Cause(ctx))
		return none, context.Cause(ctx)
	}
}

// Start begins the call in the background unless it is under way, and returns
// what is closed at its end; nil after Close. Only Forget and Close cut it off.
func (f *Flight[K, V]) Start(ctx context.Context, key K, run func(context.Context) (V, error)) <-chan struct{} {
	c, err := f.join(ctx, key, run)
	if err != nil {
		return nil
	}
	return c.done
}

// Forget cuts the call of a key off, if there is one, and does not wait for its
// end: the next one may run beside it.
func (f *Flight[K, V]) Forget(key K, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.running[key]; c != nil {
		c.cancel(why)
		delete(f.running, key)
	}
}

// Close cuts all calls off and lets no more begin: why is what callers are told.
// over is closed when the last call has ended, forgotten ones included.
func (f *Flight[K, V]) Close(why error) (over <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = why
	for _, c := range f.running {
		c.cancel(why)
	}
	ended := make(chan struct{})
	go func() { f.calls.Wait(); close(ended) }()
	return ended
}

func (f *Flight[K, V]) join(ctx context.Context, key K, run func(context.Context) (V, error)) (*call[V], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		return nil, f.closed
	}
	if c := f.running[key]; c != nil {
		c.waiters++
		return c, nil
	}
	if f.running == nil {
		f.running = map[K]*call[V]{}
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c := &call[V]{cancel: cancel, waiters: 1, done: make(chan struct{})}
	f.running[key] = c
	f.calls.Go(func() {
		defer cancel(nil)
		c.value, c.err = run(ctx)
		last := f.drop(key, c) // before the end is visible: a caller that comes later must not get this answer
		close(c.done)
		if last && f.Idle != nil {
			f.Idle()
		}
	})
	return c, nil
}

// leave takes one waiter away; the last one cuts the call off.
func (f *Flight[K, V]) leave(key K, c *call[V], why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.waiters--; c.waiters > 0 {
		return
	}
	f.forget(key, c)
	c.cancel(why)
}

// drop forgets a call that has ended and tells whether it was the last.
func (f *Flight[K, V]) drop(key K, c *call[V]) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(key, c)
	return len(f.running) == 0
}

// forget takes a call from those to join, if another is not there in its place.
func (f *Flight[K, V]) forget(key K, c *call[V]) {
	if f.running[key] == c {
		delete(f.running, key)
	}
}
