// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// sinkPatience is how long (ms) an attached client may take nothing at all
// before it is dropped. Until then it holds the container up, as a terminal
// would; the log has the batch already.
const sinkPatience = 2000

// Sink is one attached client's end of one stream: a pipe that is written
// without blocking.
type Sink struct {
	FD      int    // the stream's once it is attached
	Dropped func() // tells the client that it was too slow
	Ended   func() // tells the client that the container ended
}

// Attach passes what is read from now on to a sink. One that comes after the end
// of the container, as after an upgrade of the monitor, is ended at once.
func (st *Stream) Attach(s *Sink) {
	st.sinkMu.Lock()
	over := st.over
	if !over {
		st.sinks = append(st.sinks, s)
	}
	st.sinkMu.Unlock()
	if over {
		s.Ended()
		unix.Close(s.FD)
	}
}

// Detach removes a sink, if it is still there, and closes it.
func (st *Stream) Detach(s *Sink) {
	st.sinkMu.Lock()
	defer st.sinkMu.Unlock()
	for i, have := range st.sinks {
		if have == s {
			st.sinks = append(st.sinks[:i:i], st.sinks[i+1:]...)
			unix.Close(s.FD)
			return
		}
	}
}

// fanOut gives data to everyone attached. Only the stream's drainer calls it.
func (st *Stream) fanOut(data []byte) {
	st.sinkMu.Lock()
	sinks := st.sinks
	st.sinkMu.Unlock()
	for _, s := range sinks {
		if err := st.give(s, data); err != nil {
			if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.EBADF) { // it is there and would wait to be told
				s.Dropped()
			}
			st.Detach(s)
		}
	}
}

// give writes data, waiting for room as long as the client takes something.
// The write end is duplicated for the wait, so that Detach may close it any
// time without its number being written to by mistake.
func (st *Stream) give(s *Sink, data []byte) error {
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

func (st *Stream) writeSink(s *Sink, data []byte) (int, error) {
	st.sinkMu.Lock()
	defer st.sinkMu.Unlock()
	if !st.attached(s) {
		return 0, unix.EBADF
	}
	return unix.Write(s.FD, data)
}

func (st *Stream) awaitSink(s *Sink) error {
	fd, err := st.Duplicate(s)
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

func (st *Stream) attached(s *Sink) bool {
	return slices.Contains(st.sinks, s)
}

// endSinks ends the output of everyone attached: the container has ended.
func (st *Stream) endSinks() {
	st.sinkMu.Lock()
	sinks := st.sinks
	st.sinks, st.over = nil, true
	st.sinkMu.Unlock()
	for _, s := range sinks {
		s.Ended()
		unix.Close(s.FD)
	}
}

// Duplicate is a descriptor of the sink for the caller; EBADF when it is not
// attached any more.
func (st *Stream) Duplicate(s *Sink) (int, error) {
	st.sinkMu.Lock()
	defer st.sinkMu.Unlock()
	if !st.attached(s) {
		return -1, unix.EBADF
	}
	return sys.Duplicate(s.FD)
}
