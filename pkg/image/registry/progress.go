// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const stallTimeout = 2 * time.Minute // for one request, when pulls as a whole have no limit

// Watch ends a pull that gets no data. It sits below the registry client: a single request that stalls is broken off so
// that it is opened again at its offset; the pull is cancelled when nothing at all came for the whole limit. Time
// without an open request, while layers are unpacked, doesn't count.
type Watch struct {
	limit  time.Duration // <= 0: never
	stall  time.Duration
	cancel context.CancelCauseFunc

	mu         sync.Mutex // guards the rest
	timer      *time.Timer
	last       time.Time // of the last byte, or of the first request after a pause
	open       int
	putOff     time.Time // when a registry first said to come back later; zero: it answers
	stalled    bool      // the last request broke off: what follows is the same silence
	transports []*http.Transport
}

// NewWatch makes a watch that cancels the pull when no data came for limit; never if that is not above zero.
func NewWatch(limit time.Duration, cancel context.CancelCauseFunc) *Watch {
	w := &Watch{limit: limit, stall: stallTimeout, cancel: cancel}
	if limit > 0 {
		w.stall = limit / 3
		w.timer = time.AfterFunc(limit, w.expire)
		w.timer.Stop()
	}
	return w
}

func (w *Watch) expire() {
	w.cancel(fmt.Errorf("no data from the registry for %s: %w", w.limit, context.DeadlineExceeded))
}

// Close ends the watch and the idle connections of the pull.
func (w *Watch) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	for _, t := range w.transports {
		t.CloseIdleConnections()
	}
}

// adopt takes a transport whose idle connections end with the pull.
func (w *Watch) adopt(t *http.Transport) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.transports = append(w.transports, t)
}

// patient says whether the pull waits that long for a registry that puts it off: all in all, since the last answer that
// wasn't that, no longer than it waits for a silent one.
func (w *Watch) patient(wait time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.putOff.IsZero() {
		w.putOff = time.Now()
	}
	return w.limit <= 0 || time.Since(w.putOff)+wait <= w.limit
}

func (w *Watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	if w.open > 1 || w.timer == nil {
		return
	}
	if !w.stalled {
		w.last = time.Now()
	}
	w.timer.Reset(w.limit - time.Since(w.last))
}

func (w *Watch) progress() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.stalled, w.putOff = time.Now(), false, time.Time{}
	if w.timer != nil && w.open > 0 {
		w.timer.Reset(w.limit)
	}
}

func (w *Watch) end(stalled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	w.stalled = stalled
	if w.open == 0 && w.timer != nil {
		w.timer.Stop()
	}
}
