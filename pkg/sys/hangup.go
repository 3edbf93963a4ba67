// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// HangupWatch sees that the peer of a connection is gone while no reader
// from the connection: what the peer sent before may fill the buffers.
type HangupWatch struct {
	second *os.File // a descriptor of the connection, that no other reader waits for
	raw    syscall.RawConn
}

// WatchHangup begins to watch conn, a TCP connection. The connection is open
// for as long as the watch is.
func WatchHangup(conn net.Conn) (*HangupWatch, error) {
	fd := -1
	err := withSocket(conn, func(own int) (err error) {
		// Not the File of package net: it makes the connection blocking for a
		// moment, in which a read of it may begin.
		fd, err = Duplicate(own)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch connection: %w", err)
	}
	w := &HangupWatch{second: os.NewFile(uintptr(fd), "connection")}
	if w.raw, err = w.second.SyscallConn(); err != nil {
		w.second.Close()
		return nil, fmt.Errorf("watch connection: %w", err)
	}
	return w, nil
}

// Await returns true when the peer has closed its side or the connection is
// broken, and false when the watch was closed.
func (w *HangupWatch) Await() bool {
	err := w.raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, err := unix.Poll(poll, 0)
		return err == nil && poll[0].Revents != 0
	})
	return err == nil
}

// Close ends the watch.
func (w *HangupWatch) Close() error { return w.second.Close() }

// GrowSendBuffer lets conn take at least so many bytes more than it could, and
// wakes who waits to write to it.
func GrowSendBuffer(conn net.Conn, more int) error {
	if err := withSocket(conn, func(fd int) error { return growSendBuffer(fd, more) }); err != nil {
		return fmt.Errorf("grow send buffer: %w", err)
	}
	return nil
}

func withSocket(conn net.Conn, use func(fd int) error) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("a %T has no descriptor", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var used error
	err = raw.Control(func(fd uintptr) { used = use(int(fd)) })
	return errors.Join(err, used)
}

// growSendBuffer doubles the buffer besides: the kernel wakes no writer before
// a third of it is free (tcp_sock.h, sk_stream_is_writeable).
func growSendBuffer(fd, more int) error {
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return err
	}
	size += more // the kernel doubles what it is given
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size) // without CAP_NET_ADMIN, up to net.core.wmem_max
}
