// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
)

// errClientGone is the cause with which a session's context ends when its
// client hangs up.
var errClientGone = errors.New("client closed the connection")

// clientListener hands out connections that tell when their client is gone.
// net/http stops watching a connection once a session takes it over, and the
// streaming libraries tell nobody.
type clientListener struct {
	net.Listener
	mu      sync.Mutex // guards the fields below
	clients map[*client]struct{}
	closed  bool
}

type client struct {
	net.Conn
	listener *clientListener

	mu     sync.Mutex // guards the fields below
	gone   bool
	cancel context.CancelCauseFunc // nil until the server has made the context
}

func newClientListener(l net.Listener) *clientListener {
	return &clientListener{Listener: l, clients: map[*client]struct{}{}}
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

// closeClients closes every connection, and those that still come.
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
	}
}

func (c *client) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	// net/http and idle timeouts interrupt reads with a deadline: not the
	// client's doing.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.leave()
	}
	return n, err
}

func (c *client) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (c *client) leave() {
	c.mu.Lock()
	gone, cancel := c.gone, c.cancel
	c.gone = true
	c.mu.Unlock()
	if gone {
		return
	}
	if cancel != nil {
		cancel(errClientGone)
	}
	c.listener.mu.Lock()
	delete(c.listener.clients, c)
	c.listener.mu.Unlock()
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
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	c.cancel = cancel
	gone := c.gone
	c.mu.Unlock()
	if gone {
		cancel(errClientGone)
	}
	return ctx
}
