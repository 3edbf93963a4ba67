// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/containerd/errdefs"
)

var errClosing = fmt.Errorf("image store is closing: %w", errdefs.ErrUnavailable)

// flights are the pulls that run. Callers that want the same image with the same credentials share one; it is cut off
// when the last of them is gone. The zero value is ready.
type flights struct {
	mu      sync.Mutex // guards running and closed
	running map[flightKey]*flight
	closed  bool
	wg      sync.WaitGroup
}

type flightKey struct {
	ref  string
	auth [sha256.Size]byte
}

type flight struct {
	cancel  context.CancelCauseFunc
	waiters int // guarded by flights.mu
	done    chan struct{}
	id      string // with err: written before done is closed
	err     error
}

// do runs fn, or joins the running one, and returns its result or the end of ctx, whichever is first.
func (f *flights) do(ctx context.Context, key flightKey, fn func(context.Context) (string, error)) (string, error) {
	fl, err := f.join(ctx, key, fn)
	if err != nil {
		return "", err
	}
	select {
	case <-fl.done:
		return fl.id, fl.err
	case <-ctx.Done():
		f.leave(key, fl, ctx.Err())
		return "", &endedError{ctx.Err()}
	}
}

func (f *flights) join(ctx context.Context, key flightKey, fn func(context.Context) (string, error)) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, &endedError{errClosing}
	}
	if err := ctx.Err(); err != nil {
		return nil, &endedError{err}
	}
	if fl := f.running[key]; fl != nil {
		fl.waiters++
		return fl, nil
	}
	if f.running == nil {
		f.running = map[flightKey]*flight{}
	}
	run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	fl := &flight{cancel: cancel, waiters: 1, done: make(chan struct{})}
	f.running[key] = fl
	f.wg.Go(func() {
		fl.id, fl.err = guarded(run, fn)
		last := f.drop(key, fl) // before anybody learns of the end: who asks after that must not get this answer
		close(fl.done)
		cancel(nil)
		if last {
			// Decoders and buffers are as large as the rest of the daemon: give them back now, not in minutes.
			debug.FreeOSMemory()
		}
	})
	return fl, nil
}

// guarded keeps what an image makes the libraries panic at from taking the daemon along.
func guarded(ctx context.Context, fn func(context.Context) (string, error)) (id string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v: %w", p, errdefs.ErrInternal)
		}
	}()
	return fn(ctx)
}

// leave takes one waiter away; the last one cuts the pull off, and the next caller starts a new one.
func (f *flights) leave(key flightKey, fl *flight, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiters--
	if fl.waiters > 0 {
		return
	}
	if f.running[key] == fl {
		delete(f.running, key)
	}
	fl.cancel(why)
}

// drop forgets a finished pull and says whether it was the last.
func (f *flights) drop(key flightKey, fl *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[key] == fl {
		delete(f.running, key)
	}
	return len(f.running) == 0
}

func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	for _, fl := range f.running {
		fl.cancel(errClosing)
	}
	f.mu.Unlock()
	f.wg.Wait()
}
