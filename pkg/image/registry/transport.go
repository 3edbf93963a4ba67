// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	headerLimit    = 256 << 10 // bytes of an answer's header
	challengeLimit = 4 << 10   // bytes of a WWW-Authenticate; the library's parser takes quadratic time for some
	challenges     = 8         // of them in an answer
	tokenLimit     = 1 << 20   // bytes of a token server's answer, which is read into memory
)

// wrap puts itself and the watch into an HTTP client. The registry library gives it some clients twice.
func (h *Hosts) wrap(c *http.Client) error {
	next := c.Transport
	if _, done := next.(*watchedTransport); done {
		return nil
	}
	if next == nil {
		next = http.DefaultTransport
	}
	if t, ok := next.(*http.Transport); ok && next != http.DefaultTransport {
		t.MaxResponseHeaderBytes = headerLimit
		h.watch.adopt(t)
	}
	c.Transport = &watchedTransport{hosts: h, watch: h.watch, next: next}
	return nil
}

// watchedTransport sends the requests of a pull. It notes how its hosts do, and waits where one says to come back later.
type watchedTransport struct {
	hosts *Hosts
	watch *Watch
	next  http.RoundTripper
}

// errStalled is a timeout to the registry client: it tries again, or the next mirror.
type errStalled struct{ after time.Duration }

func (e errStalled) Error() string { return fmt.Sprintf("no data for %s", e.after) }
func (errStalled) Timeout() bool   { return true }
func (errStalled) Temporary() bool { return true }

// RoundTrip sends a request, again and again while the host puts it off, the pull has time left and no other host is there
// to be asked.
func (t *watchedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	host := hostOfRequest(r)
	for {
		resp, err := t.send(r, host)
		if err != nil {
			if r.Context().Err() == nil && !errors.As(err, new(tls.RecordHeaderError)) { // that one is plain HTTP's, which is tried next
				t.hosts.fail(host)
			}
			return nil, err
		}
		if refuses(resp.StatusCode) {
			t.hosts.fail(host)
		}
		wait, ok := putOff(resp)
		if !ok {
			return resp, nil
		}
		if err := t.pause(r, resp, host, wait); err != nil {
			return nil, err
		}
		if r, err = repeat(r); err != nil {
			return nil, err
		}
	}
}

// refuses: a host that answers this won't do better for the next blob. 401 is how a login begins, and some don't take HEAD
// or ranges.
func refuses(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusForbidden || status == http.StatusNotFound
}

// pause waits as an answer says. Errors: busyError if it is not worth it.
func (t *watchedTransport) pause(r *http.Request, resp *http.Response, host string, wait time.Duration) error {
	_ = resp.Body.Close() // nothing was written
	if t.hosts.another(host, wantedOf(r)) || !t.watch.patient(wait) {
		return &busyError{r.URL.Host, resp.Status, wait}
	}
	if t.watch.limit <= 0 {
		wait = min(wait, stallTimeout) // who never gives up looks now and then whether it is still so
	}
	t.hosts.log.InfoContext(r.Context(), "registry wants to be asked again later", "host", r.URL.Host, "status", resp.Status, "wait", wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// repeat is a request to be sent a second time.
func repeat(r *http.Request) (*http.Request, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, nil
	}
	if r.GetBody == nil {
		return nil, fmt.Errorf("send %s %s again: its body is gone", r.Method, r.URL.Host)
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	again := r.Clone(r.Context())
	again.Body = body
	return again, nil
}

func (t *watchedTransport) send(r *http.Request, host string) (*http.Response, error) {
	t.watch.begin()
	ctx, cancel := context.WithCancel(r.Context())
	q := &watchedRequest{transport: t, host: host, request: r, cancel: cancel}
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
	q.timer.Reset(t.watch.stall)
	if _, busy := putOff(resp); !busy {
		t.watch.progress()
	}
	q.body = resp.Body
	resp.Body = q
	trim(r, resp)
	return resp, nil
}

// trim cuts what the registry library would read of an answer however much it is.
func trim(r *http.Request, resp *http.Response) {
	const name = "Www-Authenticate"
	var short []string
	for _, c := range resp.Header[name] {
		if len(c) <= challengeLimit && len(short) < challenges {
			short = append(short, c)
		}
	}
	if len(short) < len(resp.Header[name]) {
		resp.Header[name] = short
	}
	if r.Context().Value(tokenFor{}) != nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, tokenLimit), resp.Body}
	}
}

// watchedRequest is the response body of a watched request.
type watchedRequest struct {
	transport *watchedTransport
	host      string
	request   *http.Request // its context tells the caller's end from ours
	cancel    context.CancelFunc
	timer     *time.Timer
	stalled   atomic.Bool
	done      sync.Once
	body      io.ReadCloser
}

// Read passes a broken connection on as an unexpected end: the registry client then opens the blob again where it
// stopped, at the same host. A stall is passed on as such where there is another host: the blob then goes on there.
func (q *watchedRequest) Read(p []byte) (int, error) {
	n, err := q.body.Read(p)
	if n > 0 {
		q.timer.Reset(q.transport.watch.stall)
		q.transport.watch.progress()
	}
	if err == nil || errors.Is(err, io.EOF) || q.request.Context().Err() != nil {
		return n, err
	}
	q.transport.hosts.fail(q.host)
	if q.stalled.Load() && q.transport.hosts.another(q.host, wantedOf(q.request)) {
		return n, errStalled{q.transport.watch.stall}
	}
	return n, io.ErrUnexpectedEOF
}

// Close ends the request.
func (q *watchedRequest) Close() error {
	err := q.body.Close()
	q.finish()
	return err
}

func (q *watchedRequest) finish() {
	q.done.Do(func() {
		q.timer.Stop()
		q.cancel()
		q.transport.watch.end(q.stalled.Load())
	})
}
