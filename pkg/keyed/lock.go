// SPDX-License-Identifier: Apache-2.0

// Package keyed has what must not happen twice at a time for one key: [Lock], a
// lock per key, and [Flight], one call per key that others join.
//
// Invariants:
//   - A key costs memory only while it is held, waited for, or its call runs.
//   - Different keys never wait for each other.
//
// The package keeps no results: what a call returned is forgotten when it ends.
// Callers that need the last answer keep it. There is no order among keys
// either: callers that hold several must avoid a cycle.
package keyed

import (
	"context"
	"sync"
)

// Lock is one lock per key. The zero value is ready.
type Lock struct {
	mu   sync.Mutex // guards held
	held map[string]*hold
}

type hold struct {
	token chan struct{} // has an element while the key is locked
	users int           // who hold the key or wait for it; guarded by Lock.mu
}

// Lock waits for the key or for the end of ctx, whose cause it returns.
func (l *Lock) Lock(ctx context.Context, key string) error {
	h := l.join(key)
	select {
	case h.token <- struct{}{}:
		return nil
	case <-ctx.Done():
		l.leave(key, h)
		return context.Cause(ctx)
	}
}

// Hold waits for the key as long as it takes, and returns its release.
func (l *Lock) Hold(key string) (release func()) {
	l.join(key).token <- struct{}{}
	return func() { l.Unlock(key) }
}

// Unlock frees a key that Lock returned nil for.
func (l *Lock) Unlock(key string) {
	l.mu.Lock()
	h := l.held[key]
	l.mu.Unlock()
	<-h.token
	l.leave(key, h)
}

func (l *Lock) join(key string) *hold {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*hold{}
	}
	h := l.held[key]
	if h == nil {
		h = &hold{token: make(chan struct{}, 1)}
		l.held[key] = h
	}
	h.users++
	return h
}

func (l *Lock) leave(key string, h *hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(l.held, key)
	}
}
