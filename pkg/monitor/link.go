// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// link is one connection of a Client.
type link struct {
	c    *Client
	sock *socket

	sendMu sync.Mutex // one sender at a time

	mu       sync.Mutex // guards what follows
	next     uint64
	pending  map[uint64]*pending
	sessions map[uint64]func(*packet) // nil argument: the connection broke
	early    map[uint64]*packet       // session ends that came before the session was known
	broken   bool
}

type pending struct {
	answer chan answer
	given  bool // up: nobody waits for the answer; guarded by link.mu
}

type answer struct {
	p   *packet
	fds []int
	err error
}

func newLink(c *Client, s *socket) *link {
	return &link{c: c, sock: s, pending: map[uint64]*pending{}, sessions: map[uint64]func(*packet){}, early: map[uint64]*packet{}}
}

func (l *link) close() { l.sock.close() }

// read serves answers and events until the connection breaks, and then fails
// whoever still waits.
func (l *link) read() error {
	err := l.readAll()
	if errors.Is(err, io.EOF) {
		err = errors.New("connection closed by monitor")
	}
	l.mu.Lock()
	l.broken = true
	waiting, sessions := l.pending, l.sessions
	l.pending, l.sessions = nil, nil
	l.mu.Unlock()
	for _, p := range waiting {
		p.answer <- answer{err: unavailable{fmt.Errorf("monitor: %w", err)}}
	}
	for _, end := range sessions {
		end(nil)
	}
	return err
}

func (l *link) readAll() error {
	for {
		b, fds, err := l.sock.recv(nil)
		if err != nil {
			return err
		}
		p, err := decode(b)
		if err != nil {
			closeFDs(fds)
			return err
		}
		if p.Req == 0 {
			closeFDs(fds)
			l.c.event(l, p)
			continue
		}
		if p.Op == opLaunch && p.Err == nil && len(p.Running) == 1 && len(p.FDs) == len(fds) {
			// Here, not in the caller: the exit may be the next packet.
			l.c.keep(p.Running[0].ID, p.FDs, fds)
			fds = nil
		}
		l.mu.Lock()
		w := l.pending[p.Req]
		delete(l.pending, p.Req)
		given := w != nil && w.given
		l.mu.Unlock()
		a := answer{p: p, fds: fds, err: p.Err.err()}
		switch {
		case w == nil:
			closeFDs(fds)
		case given:
			l.undo(a)
		default:
			w.answer <- a
		}
	}
}

// call sends a request and waits. When ctx ends first, the monitor is asked to
// cancel, and a late answer is undone as far as that needs doing.
func (l *link) call(ctx context.Context, p *packet, fds []int) (*packet, []int, error) {
	w := &pending{answer: make(chan answer, 1)}
	l.mu.Lock()
	if l.broken {
		l.mu.Unlock()
		return nil, nil, unavailable{errors.New("monitor: connection lost")}
	}
	l.next++
	p.Req = l.next
	l.pending[p.Req] = w
	l.mu.Unlock()
	if err := l.post(ctx, p, fds); err != nil {
		l.mu.Lock()
		delete(l.pending, p.Req)
		l.mu.Unlock()
		return nil, nil, err
	}
	select {
	case a := <-w.answer:
		return a.p, a.fds, a.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	w.given = true
	under := l.pending[p.Req] == w
	l.mu.Unlock()
	if !under { // it came at the same moment
		a := <-w.answer
		return a.p, a.fds, a.err
	}
	if p.Op == opLaunch || p.Op == opExec {
		cleanup, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		_ = l.post(cleanup, &packet{Op: opCancel, Req: l.number(), Seq: p.Req}, nil)
	}
	return nil, nil, fmt.Errorf("monitor: %s: %w", p.Op, context.Cause(ctx))
}

func (l *link) number() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return l.next
}

// post sends one packet. A monitor that reads nothing until ctx's deadline is
// taken for dead: the connection is closed.
func (l *link) post(ctx context.Context, p *packet, fds []int) error {
	b, err := p.encode()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	deadline, _ := ctx.Deadline() // zero: none
	_ = l.sock.file.SetWriteDeadline(deadline)
	err = l.sock.send(b, fds)
	if err == nil {
		return nil
	}
	l.close()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return unavailable{fmt.Errorf("monitor: %s: does not read its socket", p.Op)}
	}
	return unavailable{fmt.Errorf("monitor: send %s: %w", p.Op, err)}
}

// undo ends what a late answer brought: nobody knows of it.
func (l *link) undo(a answer) {
	if a.err == nil && a.p.Session != 0 {
		for i, kind := range a.p.FDs {
			if kind == fdPidfd && i < len(a.fds) {
				_ = killPidfd(a.fds[i])
			}
		}
	}
	closeFDs(a.fds)
}

// onSession has end called once: with the event that ends the session, or with
// nil when the connection breaks.
func (l *link) onSession(number uint64, end func(*packet)) {
	l.mu.Lock()
	p, early := l.early[number]
	delete(l.early, number)
	broken := l.broken
	if !early && !broken {
		l.sessions[number] = end
	}
	l.mu.Unlock()
	if early || broken {
		end(p)
	}
}

func (l *link) endSession(p *packet) {
	l.mu.Lock()
	end := l.sessions[p.Session]
	delete(l.sessions, p.Session)
	if end == nil {
		if len(l.early) > 1024 { // of calls given up
			clear(l.early)
		}
		l.early[p.Session] = p
	}
	l.mu.Unlock()
	if end != nil {
		end(p)
	}
}

func (l *link) forgetSession(number uint64) {
	l.mu.Lock()
	delete(l.sessions, number)
	delete(l.early, number)
	l.mu.Unlock()
}
