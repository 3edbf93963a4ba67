// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"sync"
)

// exitQueue is the way from the connection to the reader of Exits: without
// bound, so that a reader that is busy never holds answers up, and without
// repetition, though a new connection replays.
type exitQueue struct {
	out  chan Exit
	wake chan struct{}

	mu    sync.Mutex // guards what follows
	epoch string
	last  uint64
	queue []Exit
}

func newExitQueue() *exitQueue {
	return &exitQueue{out: make(chan Exit), wake: make(chan struct{}, 1)}
}

// begin announces exits of the given series of numbers.
func (q *exitQueue) begin(epoch string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.epoch != epoch {
		q.epoch, q.last = epoch, 0
	}
}

func (q *exitQueue) put(e Exit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.Seq <= q.last {
		return
	}
	q.last = e.Seq
	q.queue = append(q.queue, e)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// feed delivers until ctx ends, and closes out. An exit stays in the queue
// until it was taken, so that pending never misses one.
func (q *exitQueue) feed(ctx context.Context) {
	defer close(q.out)
	for {
		e, ok := q.head()
		if !ok {
			select {
			case <-q.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case q.out <- e:
			q.pop()
		case <-ctx.Done():
			return
		}
	}
}

func (q *exitQueue) head() (Exit, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		return Exit{}, false
	}
	return q.queue[0], true
}

func (q *exitQueue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = q.queue[1:]
	if len(q.queue) == 0 {
		q.queue = nil
	}
}

// pending lists the containers whose exit nobody has taken yet.
func (q *exitQueue) pending() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var ids []string
	for _, e := range q.queue {
		ids = append(ids, e.ID)
	}
	return ids
}
