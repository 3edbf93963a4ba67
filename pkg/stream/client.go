// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// errClientGone is the cause with which a session's context ends when its
// client hangs up.
var errClientGone = errors.New("client closed the connection")

// lastWords is what a session writes at most after its end: the blocks of
// output that wait to be written, and its status.
const lastWords = 256 << 10

// clientListener hands out connections that tell when their client is gone.
// net/http stops watching a connection once a session takes it over, and the
// streaming libraries do not report.
type clientListener struct {
	net.Listener
	idle    time.Duration // for which a session's client may take nothing
	ends    sync.WaitGroup
	mu      sync.Mutex // guards the fields below
	clients map[*client]struct{}
	closed  bool
}

type client struct {
	net.Conn
	listener *clientListener
	reading  sync.Mutex // held by who reads

	mu      sync.Mutex // guards the fields below
	gone    bool
	closing bool
	served  bool                    // its session has ended
	watch   *sys.HangupWatch        // of a session
	cancel  context.CancelCauseFunc // nil until the server has made the context
}

func newClientListener(l net.Listener, idle time.Duration) *clientListener {
	return &clientListener{Listener: l, idle: idle, clients: map[*client]struct{}{}}
}

func (l *clientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &client{Conn: conn, listener: l}
	l.mu.Lock()
	l.clients[c] = struct{}{}
	closed := l.closed
	l.mu.Unlock()
	if closed {
		c.Close()
	}
	return c, nil
}

// closeClients closes every connection, and those that still come, and waits
// until nothing reads from them. What was written is the kernel's to send.
func (l *clientListener) closeClients() {
	l.mu.Lock()
	l.closed = true
	all := make([]*client, 0, len(l.clients))
	for c := range l.clients {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		c.Close()
		c.Conn.Close()
	}
	l.ends.Wait()
}

// serve begins a session. From now on it is noticed that the client has gone
// even while no call reads what it sent.
func (c *client) serve() error {
	watch, err := sys.WatchHangup(c.Conn)
	if err != nil {
		return err
	}
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.listener.closed || !c.setWatch(watch) {
		return watch.Close()
	}
	c.listener.ends.Go(func() {
		if watch.Await() {
			c.leave()
			if c.isServed() {
				c.Close()
			}
		}
	})
	return nil
}

// endServe ends a session. When its client has gone the connection is closed,
// now or then, whatever becomes of the library that has it.
func (c *client) endServe() {
	c.mu.Lock()
	c.served = true
	gone := c.gone
	c.mu.Unlock()
	if gone {
		c.Close()
	}
}

func (c *client) isServed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served
}

// setWatch tells whether it did: not for a connection that is being closed, or
// is watched already.
func (c *client) setWatch(w *sys.HangupWatch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.watch != nil {
		return false
	}
	c.watch = w
	return true
}

func (c *client) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.isClosing() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(b)
	// net/http and idle timeouts interrupt reads with a deadline: not the
	// client's doing.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.leave()
	}
	return n, err
}

// Write waits for a client that does not read, for as long as a connection may
// be idle.
func (c *client) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(c.listener.idle))
	n, err := c.Conn.Write(b)
	if err != nil {
		c.leave()
	}
	return n, err
}

// makeRoom lets the connection take the last words of a session whose client
// does not read, behind all the output it has not read.
func (c *client) makeRoom() error { return sys.GrowSendBuffer(c.Conn, lastWords) }

// Close ends the connection of a session when the client has closed its side
// too, and others at once. What arrives after a close, or is unread then, makes
// the kernel drop what the client has still to get.
func (c *client) Close() error {
	c.leave()
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.closing
	c.closing = true
	if c.watch == nil || c.listener.closed {
		c.listener.forget(c)
		if c.watch != nil {
			c.watch.Close()
		}
		return c.Conn.Close()
	}
	if first {
		c.watch.Close()
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // the reader returns
		c.listener.ends.Go(c.linger)
	}
	return nil
}

func (c *client) linger() {
	c.reading.Lock()
	defer c.reading.Unlock()
	defer c.Conn.Close()
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.listener.idle))
	_, _ = io.Copy(io.Discard, c.Conn)
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.listener.forget(c)
}

// forget needs mu.
func (l *clientListener) forget(c *client) { delete(l.clients, c) }

func (c *client) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// SetDeadline and SetReadDeadline leave a connection alone that is being
// closed.
func (c *client) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *client) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// leave ends the context of a client that is gone.
func (c *client) leave() {
	c.mu.Lock()
	gone, cancel := c.gone, c.cancel
	c.gone = true
	c.mu.Unlock()
	if !gone && cancel != nil {
		cancel(errClientGone)
	}
}

type clientKey struct{}

// clientOf returns the connection a request came by.
func clientOf(ctx context.Context) *client {
	c, _ := ctx.Value(clientKey{}).(*client)
	return c
}

// clientContext makes the context all requests of a connection run on.
func clientContext(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(*client)
	if !ok {
		return ctx
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, clientKey{}, c))
	c.mu.Lock()
	c.cancel = cancel
	gone := c.gone
	c.mu.Unlock()
	if gone {
		cancel(errClientGone)
	}
	return ctx
}
