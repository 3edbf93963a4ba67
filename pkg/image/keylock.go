// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"sync"
)

// keyLock is one lock per name, for as long as somebody holds or wants it. The zero value is ready.
// It is the unpacker's KeyedLocker: two pulls that share a blob or a layer fetch and unpack it once.
type keyLock struct {
	mu   sync.Mutex // guards held
	held map[string]*keyHold
}

type keyHold struct {
	token chan struct{} // holds one element while free
	users int
}

// Lock waits for the name or for the end of ctx, whose error it returns.
func (l *keyLock) Lock(ctx context.Context, key string) error {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyHold{}
	}
	h := l.held[key]
	if h == nil {
		h = &keyHold{token: make(chan struct{}, 1)}
		h.token <- struct{}{}
		l.held[key] = h
	}
	h.users++
	l.mu.Unlock()
	select {
	case <-h.token:
		return nil
	case <-ctx.Done():
		l.leave(key, h)
		return context.Cause(ctx)
	}
}

// Unlock frees a name that Lock returned nil for.
func (l *keyLock) Unlock(key string) {
	l.mu.Lock()
	h := l.held[key]
	l.mu.Unlock()
	h.token <- struct{}{}
	l.leave(key, h)
}

func (l *keyLock) leave(key string, h *keyHold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.users--
	if h.users == 0 {
		delete(l.held, key)
	}
}
