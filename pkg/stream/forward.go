// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// dialLimit is for a listener with a full backlog: loopback answers at once or
// never.
const dialLimit = 30 * time.Second

// forwarder is what cri-streaming calls for every connection of a session. It
// passes a background context, which is why the function brings its own.
type forwarder func(port int32, client io.ReadWriteCloser) error

// PortForward implements cri-streaming's PortForwarder.
func (f forwarder) PortForward(_ context.Context, _, _ string, port int32, client io.ReadWriteCloser) error {
	return f(port, client)
}

// forward connects client with a port on the pod's loopback and copies both
// ways until both are done, or the connection breaks, or ctx ends.
func (s *Service) forward(ctx context.Context, pod state.PodID, port int32, client io.ReadWriteCloser) error {
	s.sessions.Add(1)
	defer s.sessions.Done()
	if err := confirm(client); err != nil {
		return fmt.Errorf("forward port %d: confirm stream: %w", port, err)
	}
	conn, err := s.dial(ctx, pod, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	sent := make(chan struct{})
	// Should the other direction break, this one ends a little later than the
	// call: when cri-streaming resets the stream.
	s.sessions.Go(func() {
		defer close(sent)
		io.Copy(conn, client) // an error here is one of reading from conn, too
		closeWrite(conn)
	})
	if _, err := io.Copy(client, conn); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // not what closing conn looks like
		}
		return fmt.Errorf("forward port %d: %w", port, err)
	}
	client.Close() // this direction only, where the protocol can tell; half-closed is open
	select {
	case <-sent:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("forward port %d: %w", port, context.Cause(ctx))
	}
}

// confirm accepts a SPDY stream. cri-streaming does that too, but only after it has called us: where a refusal came
// first and the client left on it, the confirmation would fail, and closing the stream would wait for it without end.
func confirm(client io.ReadWriteCloser) error {
	if s, ok := client.(interface {
		SendReply(headers http.Header, fin bool) error
	}); ok {
		return s.SendReply(http.Header{}, false) // only the first one is sent
	}
	return nil
}

func closeWrite(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails where the other end is gone, which reading from it notices
	}
}

// dial connects to the pod's loopback, IPv4 first: that is where most programs
// listen that listen on one of them only.
func (s *Service) dial(ctx context.Context, pod state.PodID, port int32) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("port %d is out of range: %w", port, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	if s.o.Forward != nil {
		if conn, err := s.o.Forward(ctx, pod, port); conn != nil || err != nil {
			return conn, err
		}
	}
	pinned, err := s.o.NetNS(pod)
	if err != nil {
		return nil, err
	}
	open := new(net.Dialer).DialContext
	if pinned != "" {
		open = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return netns.Dial(ctx, pinned, network, addr)
		}
	}
	conn, err4 := open(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err4 == nil {
		return conn, nil
	}
	conn, err6 := open(ctx, "tcp", fmt.Sprintf("[::1]:%d", port))
	if err6 == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("connect to port %d of pod %s: %w", port, pod, context.Cause(ctx))
	}
	return nil, fmt.Errorf("nothing accepts connections on port %d of pod %s: %w; %w", port, pod, err4, err6)
}
