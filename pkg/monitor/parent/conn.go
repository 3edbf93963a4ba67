// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/container"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// maxQueued bounds the packets a client has not read; one that reads so slowly
// is cut off. It connects again and misses nothing: exits are replayed.
const maxQueued = 4096

// conn is the monitor's side of a connection.
type conn struct {
	m      *Monitor
	sock   *wire.Socket
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
	attached map[uint64]*container.Attachment
}

type outgoing struct {
	b   []byte
	fds []int // closed after sending
}

func newConn(m *Monitor, s *wire.Socket) *conn {
	c := &conn{m: m, sock: s, requests: map[uint64]context.CancelFunc{}, attached: map[uint64]*container.Attachment{}}
	c.ctx, c.cancel = context.WithCancel(m.ctx)
	c.wake = sync.NewCond(&c.mu)
	return c
}

func (c *conn) start() {
	go c.write()
	go c.read()
}

// post queues a packet and takes over fds. It never blocks.
func (c *conn) post(p *wire.Packet, fds []int) {
	b, err := p.Encode()
	if err != nil {
		c.m.log.Error("packet not sent", "op", p.Op, "err", err)
		wire.CloseFDs(fds)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		wire.CloseFDs(fds)
		return
	}
	c.queue = append(c.queue, outgoing{b: b, fds: fds})
	if len(c.queue) > maxQueued {
		c.m.log.Warn("client disconnected: it does not read", "packets", len(c.queue))
		c.shut()
	}
	c.wake.Broadcast()
}

// shut ends the connection: nothing is sent any more, and the descriptors of
// what was not sent are closed. The reader does the rest, and closes the socket.
// The caller holds mu.
func (c *conn) shut() {
	for i := range c.queue {
		wire.CloseFDs(c.queue[i].fds)
	}
	c.queue, c.closed = nil, true
	c.sock.Shut()
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
		whole = whole && c.sock.Send(batch[i].b, batch[i].fds) == nil
		wire.CloseFDs(batch[i].fds)
	}
	return whole
}

// read serves requests until the connection closes, then ends what was the
// client's alone: attachments and exec sessions. A packet is taken from the socket
// inside the gate only: an upgrade finds it there or answered. It is not waited
// for the gate inside the socket: an upgrade may have to end the connection.
func (c *conn) read() {
	for {
		inside := false
		b, fds, err := c.sock.Recv(func() bool { inside = c.m.gate.tryEnter(); return inside })
		switch {
		case errors.Is(err, wire.ErrRefused):
			c.m.gate.awaitOpen()
		case err == nil || errors.Is(err, wire.ErrTooLong):
			c.serve(b, fds, err)
			c.m.gate.leave()
		default:
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !c.gone() {
				c.m.log.Warn("connection lost", "err", err)
			}
			if !inside {
				c.m.gate.enter()
			}
			c.close()
			c.sock.Close()
			c.m.gate.leave()
			return
		}
	}
}

// serve decodes one packet and does what it asks.
func (c *conn) serve(b []byte, fds []int, err error) {
	var p *wire.Packet
	if err == nil {
		p, err = wire.Decode(b)
	} else {
		err = wire.InvalidArgument(err)
	}
	// What was still in the socket of a client that is cut off, or dead, is dropped, as if it had never come: its
	// successor may have listed what runs already.
	if c.gone() || c.sock.PeerLeft() {
		wire.CloseFDs(fds)
		return
	}
	if err == nil && len(fds) != len(p.FDs) {
		err = wire.InvalidArgument(fmt.Errorf("%s: %d descriptors came, %d announced", p.Op, len(fds), len(p.FDs)))
	}
	if err == nil {
		c.dispatch(p, fds)
		return
	}
	wire.CloseFDs(fds)
	if p == nil {
		p = new(wire.Packet)
	}
	c.answer(p, nil, err)
}

// close ends what is the client's alone. It may be repeated.
func (c *conn) close() {
	c.m.mu.Lock()
	delete(c.m.conns, c)
	c.m.mu.Unlock()
	c.mu.Lock()
	c.shut()
	attached := c.attached
	c.attached = map[uint64]*container.Attachment{}
	c.mu.Unlock()
	c.cancel()
	for _, a := range attached {
		a.End()
	}
	c.m.dropSessions(c)
}

// answer sends the reply to request p.
func (c *conn) answer(p *wire.Packet, r *wire.Packet, err error) {
	if r == nil {
		r = new(wire.Packet)
	}
	r.Op, r.Req, r.Err = p.Op, p.Req, wire.NewError(err)
	c.post(r, nil)
}

// later runs a request that takes its time; cancel with its number ends ctx.
func (c *conn) later(p *wire.Packet, work func(ctx context.Context)) {
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

func (c *conn) isGreeted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.greeted
}

func (c *conn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
