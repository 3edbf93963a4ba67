// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The errors of Recv and Accept that leave the socket as it was.
var (
	ErrTooLong = errors.New("packet too long") // longer than MaxPacket; it was thrown away
	ErrRefused = errors.New("packet refused")  // it waits to be received
)

// Socket is one end of a SOCK_SEQPACKET connection. Reading and writing may go
// on at once; either side is for one goroutine at a time.
type Socket struct {
	file *os.File
	raw  syscall.RawConn
}

// NewSocket takes over fd.
func NewSocket(fd int) (*Socket, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set socket non-blocking: %w", err)
	}
	s := &Socket{file: os.NewFile(uintptr(fd), "monitor socket")}
	var err error
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open socket: %w", err)
	}
	return s, nil
}

// Close is for the reader. It waits until no call is inside Recv.
func (s *Socket) Close() { s.file.Close() }

// Shut ends the connection for both sides without closing the descriptor: who
// reads finds the end, who writes an error.
func (s *Socket) Shut() {
	_ = s.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
}

// SetWriteDeadline bounds Send: the error is os.ErrDeadlineExceeded then, and
// nothing was sent. The zero time is no bound.
func (s *Socket) SetWriteDeadline(t time.Time) { _ = s.file.SetWriteDeadline(t) }

// Peer says who is at the other end.
func (s *Socket) Peer() (cred *unix.Ucred, err error) {
	rawErr := s.raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(rawErr, err)
}

// PeerLeft tells whether the peer has closed its end, or died. What it sent before may still wait.
func (s *Socket) PeerLeft() bool {
	var n int
	_ = s.raw.Control(func(fd uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, 0) }) // a hang-up is always told
	return n > 0
}

// Number is the descriptor's, for handing it over; it stays owned by s.
func (s *Socket) Number() int {
	n := -1
	_ = s.raw.Control(func(fd uintptr) { n = int(fd) })
	return n
}

// Accept waits for the next connection and returns its descriptor. admit is asked
// before one is taken, as by Recv.
func (s *Socket) Accept(admit func() bool) (fd int, err error) {
	rawErr := s.raw.Read(func(lfd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(lfd), Events: unix.POLLIN}}, 0)
		switch {
		case n == 0:
			return false
		case !admit():
			err = ErrRefused
		default:
			fd, _, err = unix.Accept4(int(lfd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		}
		return true
	})
	return fd, errors.Join(rawErr, err)
}

// Recv waits for a packet and the descriptors that came with it, which are the
// caller's then. io.EOF when the peer is gone. Before a packet is taken admit is
// asked: when it says no the packet stays where it is and the error is ErrRefused.
// It must not block: Close waits for it. nil admits all.
func (s *Socket) Recv(admit func() bool) (b []byte, fds []int, err error) {
	rawErr := s.raw.Read(func(fd uintptr) bool {
		var size int
		if size, err = waiting(int(fd)); err == nil && admit != nil && !admit() {
			err = ErrRefused
		}
		if err == nil {
			b, fds, err = take(int(fd), size)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if rawErr != nil {
		err = rawErr
	}
	return b, fds, err
}

// waiting is the length of the packet that comes next. Asked for first, so that
// idle connections hold no buffer.
func waiting(fd int) (int, error) {
	size, _, err := unix.Recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
	switch {
	case errors.Is(err, unix.EINTR):
		return 0, unix.EAGAIN
	case err == nil && size == 0:
		return 0, io.EOF
	}
	return size, err
}

// take receives the packet that waits.
func take(fd, size int) ([]byte, []int, error) {
	b := make([]byte, min(size, MaxPacket))
	oob := make([]byte, unix.CmsgSpace(maxPacketFDs*4))
	n, oobn, flags, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	fds, err := ParseRights(oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("receive descriptors: some were lost")
	}
	if err == nil && size > MaxPacket {
		err = ErrTooLong
	}
	if err != nil {
		CloseFDs(fds)
		return nil, nil, err
	}
	return b[:n], fds, nil
}

// ParseRights returns the descriptors that came with a message.
func ParseRights(oob []byte) ([]int, error) {
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

// Send waits until the packet is queued. The descriptors stay the caller's.
func (s *Socket) Send(b []byte, fds []int) (err error) {
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

// Dial connects to the monitor's socket.
func Dial(path string) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	for errors.Is(err, unix.EINTR) { // by Go's own signals; nothing was begun then
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return NewSocket(fd)
}

// Listen makes the monitor's socket, for root only. The caller holds the lock
// that makes a socket found at path a dead monitor's.
func Listen(path string) (*Socket, error) {
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
	return NewSocket(fd)
}

// CloseFDs closes descriptors.
func CloseFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
