// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errTooLong is a packet longer than maxPacket; it was thrown away.
var errTooLong = errors.New("packet too long")

// socket is one end of a SOCK_SEQPACKET connection. Reading and writing may go
// on at once; either side is for one goroutine at a time.
type socket struct {
	file *os.File
	raw  syscall.RawConn
}

// newSocket takes over fd.
func newSocket(fd int) (*socket, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set socket non-blocking: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "monitor socket")}
	var err error
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.close()
		return nil, fmt.Errorf("open socket: %w", err)
	}
	return s, nil
}

func (s *socket) close() { s.file.Close() }

// number is the descriptor's, for handing it over; it stays owned by s.
func (s *socket) number() int {
	n := -1
	_ = s.raw.Control(func(fd uintptr) { n = int(fd) })
	return n
}

// accept waits for the next connection and returns its descriptor.
func (s *socket) accept() (fd int, err error) {
	rawErr := s.raw.Read(func(lfd uintptr) bool {
		fd, _, err = unix.Accept4(int(lfd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !errors.Is(err, unix.EAGAIN)
	})
	return fd, errors.Join(rawErr, err)
}

// recv waits for a packet and the descriptors that came with it, which are the
// caller's then. io.EOF when the peer is gone. A packet is taken with the gate
// entered, and the caller leaves it; nil is no gate.
func (s *socket) recv(g *gate) (b []byte, fds []int, err error) {
	entered := false
	rawErr := s.raw.Read(func(fd uintptr) bool {
		g.enter()
		b, fds, err = recvPacket(int(fd))
		entered = !errors.Is(err, unix.EAGAIN)
		if !entered {
			g.leave()
		}
		return entered
	})
	if !entered {
		g.enter()
		return nil, nil, rawErr
	}
	return b, fds, err
}

func recvPacket(fd int) ([]byte, []int, error) {
	// Ask for the length first: idle connections then hold no buffer.
	size, _, err := unix.Recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
	if errors.Is(err, unix.EINTR) {
		return nil, nil, unix.EAGAIN
	}
	if err != nil {
		return nil, nil, err
	}
	if size == 0 {
		return nil, nil, io.EOF
	}
	b := make([]byte, min(size, maxPacket))
	oob := make([]byte, unix.CmsgSpace(maxPacketFDs*4))
	n, oobn, flags, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	fds, err := parseRights(oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("receive descriptors: some were lost")
	}
	if err == nil && size > maxPacket {
		err = errTooLong
	}
	if err != nil {
		closeFDs(fds)
		return nil, nil, err
	}
	return b[:n], fds, nil
}

func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive descriptors: %w", err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // other control messages carry none
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// send waits until the packet is queued. The descriptors stay the caller's.
func (s *socket) send(b []byte, fds []int) (err error) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	rawErr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
		for errors.Is(err, unix.EINTR) {
			err = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(rawErr, err)
}

// dial connects to the monitor's socket.
func dial(path string) (*socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return newSocket(fd)
}

// listen makes the monitor's socket, for root only. The caller holds the lock
// that makes a socket found at path a dead monitor's.
func listen(path string) (*socket, error) {
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("remove old socket %s: %w", path, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	// The mode of the file is that of the socket before bind, less the umask.
	_ = unix.Fchmod(fd, 0o600)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	if err := errors.Join(unix.Chmod(path, 0o600), unix.Listen(fd, 64)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return newSocket(fd)
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
