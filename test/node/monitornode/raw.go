// SPDX-License-Identifier: Apache-2.0

package monitornode

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// RawClient speaks the protocol by hand.
type RawClient struct {
	t  testing.TB
	FD int // of the socket
}

// Raw connects a client that speaks by hand.
func (n *Node) Raw(t testing.TB) *RawClient {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := uninterrupted(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: n.Socket}) }); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	return &RawClient{t, fd}
}

// Hello greets the monitor and returns what it says of itself.
func (n *Node) Hello(t testing.TB) wire.Hello {
	t.Helper()
	p, err := wire.Decode([]byte(n.Raw(t).Ask(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)))
	if err != nil || p.Hello == nil {
		t.Fatalf("hello: %+v, %v", p, err)
	}
	return *p.Hello
}

// Ask sends a packet and returns the answer's text.
func (c *RawClient) Ask(packet string, fds ...int) string {
	c.t.Helper()
	c.Send(packet, fds...)
	b := make([]byte, 1<<17)
	var k int
	err := uninterrupted(func() (err error) { k, err = unix.Read(c.FD, b); return err })
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b[:k])
}

// uninterrupted makes a system call again that a signal of Go's own interrupts.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Send sends a packet, whose descriptors stay the caller's.
func (c *RawClient) Send(packet string, fds ...int) {
	c.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := uninterrupted(func() error { return unix.Sendmsg(c.FD, []byte(packet), oob, nil, 0) }); err != nil {
		c.t.Fatal(err)
	}
}
