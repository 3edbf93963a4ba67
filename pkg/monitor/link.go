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

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// link is one connection of a Client.
type link struct {
	c    *Client
	sock *wire.Socket

	sending chan struct{} // holds a token while a packet is sent

	mu       sync.Mutex // guards what follows
	next     uint64
	pending  map[uint64]*pending
	sessions map[uint64]*ending // from the answer that names the session on
	broken   bool
}

// ending is what is to be told of a session.
type ending struct {
	end   func(*wire.Packet) // nil: no caller yet; nil argument: the connection broke
	early *wire.Packet       // the end, which came before a caller asked
}

type pending struct {
	answer chan answer
	given  bool // up: the caller gave up; guarded by link.mu
	// cleanup is the caller's without cancellation, for undoing.
	cleanup context.Context //nolint:containedctx // of the call, which may be over
}

type answer struct {
	p   *wire.Packet
	fds []int
	err error
}

func newLink(c *Client, s *wire.Socket) *link {
	return &link{
		c: c, sock: s, sending: make(chan struct{}, 1), pending: map[uint64]*pending{}, sessions: map[uint64]*ending{},
	}
}

func (l *link) close() { l.sock.Close() }

// read serves answers and events until the connection breaks, and then fails
// every caller that still waits.
func (l *link) read() error {
	err := l.readAll()
	if errors.Is(err, io.EOF) {
		err = errors.New("connection closed by monitor")
	}
	l.mu.Lock()
	l.broken = true
	waiting := l.pending
	l.pending = nil
	var ends []func(*wire.Packet)
	for number, e := range l.sessions {
		if e.end != nil {
			ends = append(ends, e.end)
			delete(l.sessions, number)
		}
	}
	l.mu.Unlock()
	for _, p := range waiting {
		p.answer <- answer{err: wire.Unavailable(fmt.Errorf("monitor: %w", err))}
	}
	for _, end := range ends {
		end(nil)
	}
	return err
}

func (l *link) readAll() error {
	for {
		b, fds, err := l.sock.Recv(nil)
		if err != nil {
			return err
		}
		p, err := wire.Decode(b)
		if err != nil {
			wire.CloseFDs(fds)
			return err
		}
		if p.Req == 0 {
			wire.CloseFDs(fds)
			l.c.event(l, p)
			continue
		}
		if p.Op == wire.OpLaunch && p.Err == nil && len(p.Running) == 1 && len(p.FDs) == len(fds) {
			// Here, not in the caller: the exit may be the next packet.
			l.c.hold(p.Running[0].ID, p.FDs, fds)
			fds = nil
		}
		l.mu.Lock()
		w := l.pending[p.Req]
		delete(l.pending, p.Req)
		given := w != nil && w.given
		if w != nil && !given && p.Session != 0 {
			l.sessions[p.Session] = &ending{} // here, not in the caller: the end may be the next packet
		}
		l.mu.Unlock()
		a := answer{p: p, fds: fds, err: p.Err.Err()}
		switch {
		case w == nil:
			wire.CloseFDs(fds)
		case given:
			l.undo(w.cleanup, a)
		default:
			w.answer <- a
		}
	}
}

// call sends a request and waits. When ctx ends first, the monitor is asked to
// cancel, and a late answer is undone as far as that needs doing.
func (l *link) call(ctx context.Context, p *wire.Packet, fds []int) (*wire.Packet, []int, error) {
	w := &pending{answer: make(chan answer, 1), cleanup: context.WithoutCancel(ctx)}
	l.mu.Lock()
	if l.broken {
		l.mu.Unlock()
		return nil, nil, wire.Unavailable(errors.New("monitor: connection lost"))
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
	if p.Op == wire.OpLaunch || p.Op == wire.OpExec {
		cleanup, done := context.WithTimeout(w.cleanup, time.Second)
		defer done()
		_ = l.post(cleanup, &wire.Packet{Op: wire.OpCancel, Req: l.number(), Seq: p.Req}, nil)
	}
	return nil, nil, fmt.Errorf("monitor: %s: %w", p.Op, context.Cause(ctx))
}

func (l *link) number() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return l.next
}

// sendPatience is how long the monitor may take no packet at all before it is
// taken for dead; an upgrade of it takes less.
const sendPatience = 30 * time.Second

// post sends one packet, and gives up when ctx ends. A monitor that takes
// nothing for sendPatience is taken for dead: the connection is closed.
func (l *link) post(ctx context.Context, p *wire.Packet, fds []int) error {
	b, err := p.Encode()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case l.sending <- struct{}{}:
		defer func() { <-l.sending }()
	case <-ctx.Done():
		return notSent(ctx, p)
	}
	release := l.limitSend(ctx)
	err = l.sock.Send(b, fds) // whole, or not at all
	release()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return notSent(ctx, p)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("it has read nothing for %s", sendPatience)
	}
	l.close()
	return wire.Unavailable(fmt.Errorf("monitor: send %s: %w", p.Op, err))
}

// limitSend has a send end with os.ErrDeadlineExceeded when ctx ends, or after
// sendPatience. The caller, who has the token, releases it after the send.
func (l *link) limitSend(ctx context.Context) (release func()) {
	l.sock.SetWriteDeadline(time.Now().Add(sendPatience))
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		l.sock.SetWriteDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-fired // the next sender's deadline comes after it
		}
	}
}

func notSent(ctx context.Context, p *wire.Packet) error {
	return wire.Unavailable(fmt.Errorf("monitor: send %s: it does not read its socket: %w", p.Op, context.Cause(ctx)))
}

// undo ends what a late answer brought: its caller has given up.
func (l *link) undo(ctx context.Context, a answer) {
	if a.err == nil && a.p.Session != 0 {
		for i, kind := range a.p.FDs {
			if kind == wire.Pidfd && i < len(a.fds) {
				_ = killPidfd(a.fds[i])
			}
		}
	}
	wire.CloseFDs(a.fds)
	if a.err == nil && a.p.Op == wire.OpAttach {
		go l.tell(ctx, &wire.Packet{Op: wire.OpDetach, Session: a.p.Session, Unused: true}) // the reader must not wait
	}
}

// tell sends a request about which nothing can be done when it fails: the
// monitor ends by itself what a broken connection leaves.
func (l *link) tell(ctx context.Context, p *wire.Packet) {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	_, fds, _ := l.call(ctx, p, nil)
	wire.CloseFDs(fds)
}

// onSession has end called once: with the event that ends the session, or with
// nil when the connection breaks.
func (l *link) onSession(number uint64, end func(*wire.Packet)) {
	l.mu.Lock()
	e := l.sessions[number]
	if e != nil && e.early == nil && !l.broken {
		e.end = end
		l.mu.Unlock()
		return
	}
	delete(l.sessions, number)
	l.mu.Unlock()
	if e == nil {
		e = &ending{}
	}
	end(e.early)
}

// endSession passes the end of a session on. One that is no longer known was
// given up, or has ended already.
func (l *link) endSession(p *wire.Packet) {
	l.mu.Lock()
	e := l.sessions[p.Session]
	switch {
	case e == nil:
	case e.end == nil && e.early == nil:
		e.early = p
	case e.end != nil:
		delete(l.sessions, p.Session)
	}
	l.mu.Unlock()
	if e != nil && e.end != nil {
		e.end(p)
	}
}

func (l *link) forgetSession(number uint64) {
	l.mu.Lock()
	delete(l.sessions, number)
	l.mu.Unlock()
}
