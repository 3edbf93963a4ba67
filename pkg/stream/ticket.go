// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	ticketLife = time.Minute
	// ticketLimit bounds the memory that sessions that are never opened can take.
	ticketLimit = 1000
)

// tickets keeps who asked for a session until the client comes. The zero value
// is empty.
type tickets struct {
	mu    sync.Mutex // guards the fields below
	rows  map[string]http.HandlerFunc
	order []expiry // oldest first; may name tickets that are used up
}

type expiry struct {
	path string
	at   time.Time
}

// issue makes a path that answers with h, once, for a minute. Too many at the
// same time are ErrResourceExhausted.
func (t *tickets) issue(kind string, h http.HandlerFunc) (path string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for len(t.order) > 0 && !now.Before(t.order[0].at) {
		delete(t.rows, t.order[0].path)
		t.order = t.order[1:]
	}
	if len(t.order) >= ticketLimit {
		return "", fmt.Errorf("more than %d sessions asked for within %s: %w", ticketLimit, ticketLife, errdefs.ErrResourceExhausted)
	}
	if t.rows == nil {
		t.rows = map[string]http.HandlerFunc{}
	}
	path = "/" + kind + "/" + rand.Text() // 26 characters, at least 128 bits
	t.rows[path] = h
	t.order = append(t.order, expiry{path: path, at: now.Add(ticketLife)})
	return path, nil
}

// redeem returns what path stands for and uses it up; nil when there is no
// such ticket, or no longer.
func (t *tickets) redeem(path string) http.HandlerFunc {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.rows[path]
	delete(t.rows, path)
	for i, e := range t.order {
		if e.path == path {
			t.order = append(t.order[:i:i], t.order[i+1:]...)
			if !time.Now().Before(e.at) {
				return nil
			}
			break
		}
	}
	return h
}
