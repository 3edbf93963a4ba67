// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const stallTimeout = 2 * time.Minute // for one request, when pulls as a whole have no limit

// watch ends a pull that gets no data. It sits below the registry client: a single request that stalls is broken off so
// that it is opened again at its offset; the pull is cancelled when nothing at all came for the whole limit. Time
// without an open request, while layers are unpacked, doesn't count.
type watch struct {
	limit  time.Duration // <= 0: never
	stall  time.Duration
	cancel context.CancelCauseFunc

	mu         sync.Mutex // guards the rest
	timer      *time.Timer
	last       time.Time // of the last byte, or of the first request after a pause
	open       int
	stalled    bool // the last request broke off: what follows is the same silence
	transports []*http.Transport
}

func newWatch(limit time.Duration, cancel context.CancelCauseFunc) *watch {
	w := &watch{limit: limit, stall: stallTimeout, cancel: cancel}
	if limit > 0 {
		w.stall = limit / 3
		w.timer = time.AfterFunc(limit, w.expire)
		w.timer.Stop()
	}
	return w
}

func (w *watch) expire() {
	w.cancel(fmt.Errorf("no data from the registry for %s: %w", w.limit, context.DeadlineExceeded))
}

// close ends the watch and the idle connections of the pull.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	for _, t := range w.transports {
		t.CloseIdleConnections()
	}
}

// wrap puts the watch into an HTTP client.
func (w *watch) wrap(c *http.Client) error {
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	if t, ok := next.(*http.Transport); ok && next != http.DefaultTransport {
		w.mu.Lock()
		w.transports = append(w.transports, t)
		w.mu.Unlock()
	}
	c.Transport = &watchedTransport{watch: w, next: next}
	return nil
}

func (w *watch) begin() {
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

func (w *watch) progress() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.stalled = time.Now(), false
	if w.timer != nil && w.open > 0 {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) end(stalled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	w.stalled = stalled
	if w.open == 0 && w.timer != nil {
		w.timer.Stop()
	}
}

type watchedTransport struct {
	watch *watch
	next  http.RoundTripper
}

// errStalled is a timeout to the registry client: it tries again, or the next mirror.
type errStalled struct{ after time.Duration }

func (e errStalled) Error() string { return fmt.Sprintf("no data for %s", e.after) }
func (errStalled) Timeout() bool   { return true }
func (errStalled) Temporary() bool { return true }

func (t *watchedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.watch.begin()
	ctx, cancel := context.WithCancel(r.Context())
	q := &watchedRequest{watch: t.watch, cut: r.Context().Err, cancel: cancel}
	q.timer = time.AfterFunc(t.watch.stall, func() {
		q.stalled.Store(true)
		cancel()
	})
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		q.finish()
		if q.stalled.Load() {
			return nil, errStalled{t.watch.stall}
		}
		return nil, err
	}
	q.alive()
	q.body = resp.Body
	resp.Body = q
	return resp, nil
}

// watchedRequest is the response body of a watched request.
type watchedRequest struct {
	watch   *watch
	cut     func() error // the caller's context: tells its end from ours
	cancel  context.CancelFunc
	timer   *time.Timer
	stalled atomic.Bool
	done    sync.Once
	body    io.ReadCloser
}

func (q *watchedRequest) alive() {
	q.timer.Reset(q.watch.stall)
	q.watch.progress()
}

// Read passes a broken or stalled connection on as an unexpected end: the registry client then opens the blob again
// where it stopped.
func (q *watchedRequest) Read(p []byte) (int, error) {
	n, err := q.body.Read(p)
	if n > 0 {
		q.alive()
	}
	if err != nil && !errors.Is(err, io.EOF) && q.cut() == nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (q *watchedRequest) Close() error {
	err := q.body.Close()
	q.finish()
	return err
}

func (q *watchedRequest) finish() {
	q.done.Do(func() {
		q.timer.Stop()
		q.cancel()
		q.watch.end(q.stalled.Load())
	})
}
