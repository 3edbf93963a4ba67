// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// maxQueued bounds the packets a client has not read; one that reads so slowly
// is cut off. It connects again and misses nothing: exits are replayed.
const maxQueued = 4096

// conn is the monitor's side of a connection.
type conn struct {
	m      *Monitor
	sock   *socket
	ctx    context.Context //nolint:containedctx // ends with the connection
	cancel context.CancelFunc

	subscribed bool // guarded by Monitor.mu

	mu       sync.Mutex // guards what follows
	wake     *sync.Cond // on mu: queue or closed changed
	queue    []outgoing
	sending  bool
	closed   bool
	greeted  bool
	requests map[uint64]context.CancelFunc // launches and execs under way
	attached map[uint64]*attachment
}

type outgoing struct {
	b   []byte
	fds []int // closed after sending
}

func newConn(m *Monitor, s *socket) *conn {
	c := &conn{m: m, sock: s, requests: map[uint64]context.CancelFunc{}, attached: map[uint64]*attachment{}}
	c.ctx, c.cancel = context.WithCancel(m.ctx)
	c.wake = sync.NewCond(&c.mu)
	return c
}

func (c *conn) start() {
	go c.write()
	go c.read()
}

// post queues a packet and takes over fds. It never blocks.
func (c *conn) post(p *packet, fds []int) {
	b, err := p.encode()
	if err != nil {
		c.m.log.Error("packet not sent", "op", p.Op, "err", err)
		closeFDs(fds)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		closeFDs(fds)
		return
	}
	c.queue = append(c.queue, outgoing{b: b, fds: fds})
	if len(c.queue) > maxQueued {
		c.m.log.Warn("client cut off: it does not read", "packets", len(c.queue))
		c.shut()
	}
	c.wake.Broadcast()
}

// shut ends the connection: nothing is sent any more, and the descriptors of
// what was not sent are closed. The reader does the rest. The caller holds mu.
func (c *conn) shut() {
	for i := range c.queue {
		closeFDs(c.queue[i].fds)
	}
	c.queue, c.closed = nil, true
	c.sock.close()
	c.wake.Broadcast()
}

// write sends what is queued, until the connection closes.
func (c *conn) write() {
	for {
		c.mu.Lock()
		c.sending = false
		c.wake.Broadcast()
		for len(c.queue) == 0 && !c.closed {
			c.wake.Wait()
		}
		batch, closed := c.queue, c.closed
		c.queue, c.sending = nil, !closed
		c.mu.Unlock()
		if closed {
			return
		}
		if !c.sendAll(batch) {
			c.mu.Lock()
			c.shut()
			c.mu.Unlock()
		}
	}
}

// sendAll sends packets and closes their descriptors, those it could not send
// included. false: the connection is broken.
func (c *conn) sendAll(batch []outgoing) bool {
	whole := true
	for i := range batch {
		whole = whole && c.sock.send(batch[i].b, batch[i].fds) == nil
		closeFDs(batch[i].fds)
	}
	return whole
}

// read serves requests until the connection closes, then ends what was the
// client's alone: attachments and exec sessions.
func (c *conn) read() {
	for {
		// A packet is taken from the socket inside the gate only: an upgrade finds it there or answered.
		b, fds, err := c.sock.recv(&c.m.gate)
		if err != nil && !errors.Is(err, errTooLong) {
			c.m.gate.leave()
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !c.gone() {
				c.m.log.Warn("connection lost", "err", err)
			}
			c.close()
			return
		}
		c.serve(b, fds, err)
		c.m.gate.leave()
	}
}

// serve decodes one packet and does what it asks.
func (c *conn) serve(b []byte, fds []int, err error) {
	var p *packet
	if err == nil {
		p, err = decode(b)
	} else {
		err = invalidArgument{err}
	}
	if err == nil && len(fds) != len(p.FDs) {
		err = invalidArgument{fmt.Errorf("%s: %d descriptors came, %d announced", p.Op, len(fds), len(p.FDs))}
	}
	if err == nil {
		c.dispatch(p, fds)
		return
	}
	closeFDs(fds)
	if p == nil {
		p = new(packet)
	}
	c.answer(p, nil, err)
}

func (c *conn) close() {
	c.m.mu.Lock()
	delete(c.m.conns, c)
	c.m.mu.Unlock()
	c.mu.Lock()
	c.shut()
	attached := c.attached
	c.attached = map[uint64]*attachment{}
	c.mu.Unlock()
	c.cancel()
	for _, a := range attached {
		a.end()
	}
	c.m.dropSessions(c)
}

// answer sends the reply to request p.
func (c *conn) answer(p *packet, r *packet, err error) {
	if r == nil {
		r = new(packet)
	}
	r.Op, r.Req, r.Err = p.Op, p.Req, toWire(err)
	c.post(r, nil)
}

// later runs a request that takes its time; cancel with its number ends ctx.
func (c *conn) later(p *packet, work func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.ctx))
	c.mu.Lock()
	c.requests[p.Req] = cancel
	c.mu.Unlock()
	c.m.gate.stay()
	go func() {
		defer func() {
			c.m.gate.leave()
			cancel()
			c.mu.Lock()
			delete(c.requests, p.Req)
			c.mu.Unlock()
		}()
		work(ctx)
	}()
}
