// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"

	"golang.org/x/sys/unix"
)

// sinkPatience is how long (ms) an attached client may take nothing at all
// before it is dropped. Until then it holds the container up, as a terminal
// would; the log has the batch already.
const sinkPatience = 2000

// sink is one attached client's end of one stream: a pipe that is written
// without blocking.
type sink struct {
	fd      int
	dropped func() // tells the client that it was too slow
	ended   func() // tells the client that the container ended
}

// attach adds a sink.
func (st *stream) attach(s *sink) {
	st.sinkMu.Lock()
	defer st.sinkMu.Unlock()
	st.sinks = append(st.sinks, s)
}

// detach removes a sink, if it is still there, and closes it.
func (st *stream) detach(s *sink) {
	st.sinkMu.Lock()
	defer st.sinkMu.Unlock()
	for i, have := range st.sinks {
		if have == s {
			st.sinks = append(st.sinks[:i:i], st.sinks[i+1:]...)
			unix.Close(s.fd)
			return
		}
	}
}

// fanOut gives data to everyone attached. Only the stream's drainer calls it.
func (st *stream) fanOut(data []byte) {
	st.sinkMu.Lock()
	sinks := st.sinks
	st.sinkMu.Unlock()
	for _, s := range sinks {
		if err := st.give(s, data); err != nil {
			if errors.Is(err, unix.ETIMEDOUT) {
				s.dropped()
			}
			st.detach(s)
		}
	}
}

// give writes data, waiting for room as long as the client takes something.
// The write end is duplicated for the wait, so that detach may close it any
// time without its number being written to by mistake.
func (st *stream) give(s *sink, data []byte) error {
	for len(data) > 0 {
		n, err := st.writeSink(s, data)
		switch {
		case err == nil:
			data = data[n:]
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := st.awaitSink(s); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

func (st *stream) writeSink(s *sink, data []byte) (int, error) {
	st.sinkMu.Lock()
	defer st.sinkMu.Unlock()
	if !st.attached(s) {
		return 0, unix.EBADF
	}
	return unix.Write(s.fd, data)
}

func (st *stream) awaitSink(s *sink) error {
	st.sinkMu.Lock()
	if !st.attached(s) {
		st.sinkMu.Unlock()
		return unix.EBADF
	}
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 3)
	st.sinkMu.Unlock()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, sinkPatience)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	if err == nil && n == 0 {
		return unix.ETIMEDOUT
	}
	return nil
}

func (st *stream) attached(s *sink) bool {
	for _, have := range st.sinks {
		if have == s {
			return true
		}
	}
	return false
}
