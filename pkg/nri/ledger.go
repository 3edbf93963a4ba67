// SPDX-License-Identifier: Apache-2.0

package nri

import "sync"

// stage is how far plugins have been told of a life.
type stage uint8

const (
	announced stage = iota + 1 // a container that has not run
	live                       // a pod, or a container that may run
	stopped
)

// ledger holds the stage of each pod and container that plugins know, or would know if there were any: a teardown that
// is repeated, or undoes what was never announced, asks it first. Ids of pods and containers don't collide.
type ledger struct {
	mu   sync.Mutex // guards told
	told map[string]stage
}

func (l *ledger) set(id string, to stage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[id] = to
}

// move tells whether the object was at stage from, and moves it if so.
func (l *ledger) move(id string, from, to stage) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told[id] != from {
		return false
	}
	l.told[id] = to
	return true
}

// drop forgets the object; zero when it was not known.
func (l *ledger) drop(id string) stage {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.told[id]
	delete(l.told, id)
	return was
}
