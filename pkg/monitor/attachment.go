// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// attachment is one client attached to one container: output comes to it
// through pipes the monitor fills; input it writes itself, into the container's
// pipe or terminal, of which it gets a descriptor.
type attachment struct {
	number uint64
	conn   *conn
	c      *container
	stdin  bool // counted in container.clients
	unused bool // its client never knew of it
	sinks  map[*sink]*stream
}

// attach serves an attach request.
func (c *conn) attach(p *packet) {
	ct, err := c.m.container(p.ID)
	if err != nil {
		c.answer(p, nil, err)
		return
	}
	o := AttachOptions{}
	if p.Attach != nil {
		o = *p.Attach
	}
	a := &attachment{number: c.m.counter.Add(1), conn: c, c: ct, sinks: map[*sink]*stream{}}
	kinds, fds, err := a.open(o)
	if err != nil {
		a.end()
		c.answer(p, nil, fmt.Errorf("attach %s: %w", p.ID, err))
		return
	}
	c.mu.Lock()
	c.attached[a.number] = a
	c.mu.Unlock()
	c.post(&packet{Op: p.Op, Req: p.Req, Session: a.number, FDs: kinds}, fds)
}

// open makes the client's descriptors. On error there is nothing to close but
// what end closes.
func (a *attachment) open(o AttachOptions) (kinds []fdKind, fds []int, err error) {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	if a.c.ended {
		return nil, nil, notFound{fmt.Errorf("container has ended")}
	}
	if o.Stdin {
		fd, err := a.c.stdinForClient()
		if err != nil {
			return nil, nil, err
		}
		if fd >= 0 {
			a.stdin = true
			a.c.clients++
			kinds, fds = append(kinds, fdStdin), append(fds, fd)
		}
	}
	for _, st := range a.c.streams {
		if st.stderr && !o.Stderr || !st.stderr && !o.Stdout {
			continue
		}
		fd, err := a.sink(st)
		if err != nil {
			closeFDs(fds)
			return nil, nil, err
		}
		kinds, fds = append(kinds, fdKind(st.name)), append(fds, fd)
	}
	return kinds, fds, nil
}

// stdinForClient returns a write end of the container's stdin, -1 when it has
// none or it was closed. The caller holds mu.
func (c *container) stdinForClient() (int, error) {
	if c.rec.Terminal {
		return unix.FcntlInt(uintptr(c.tty), unix.F_DUPFD_CLOEXEC, 3)
	}
	if c.stdin < 0 {
		return -1, nil
	}
	fd, err := sys.OpenFIFO(c.dir+"/stdin", unix.O_WRONLY, false)
	if errors.Is(err, unix.ENXIO) { // the container has closed its end
		return -1, nil
	}
	return fd, err
}

// sink adds a pipe to a stream and returns its read end.
func (a *attachment) sink(st *stream) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, fmt.Errorf("make pipe: %w", err)
	}
	a.connect(st, pipe[1])
	return pipe[0], nil
}

// connect passes the stream on to fd, the write end of a pipe.
func (a *attachment) connect(st *stream, fd int) {
	s := &sink{
		fd:      fd,
		dropped: func() { a.tell("client did not read") },
		ended:   func() { a.tell("") },
	}
	a.sinks[s] = st
	st.attach(s)
}

// tell announces the end of the attachment, before the client sees its pipes
// end.
func (a *attachment) tell(reason string) {
	a.conn.post(&packet{Op: opDetached, Session: a.number, Reason: reason}, nil)
}

// detach ends one attachment of this client, if it is there.
func (c *conn) detach(number uint64, unused bool) {
	c.mu.Lock()
	a := c.attached[number]
	delete(c.attached, number)
	c.mu.Unlock()
	if a != nil {
		a.unused = unused
		a.end()
	}
}

// end closes the attachment's pipes, and the container's stdin if this was its
// one chance.
func (a *attachment) end() {
	for s, st := range a.sinks {
		st.detach(s)
	}
	a.endStdin()
}

func (a *attachment) endStdin() {
	a.c.mu.Lock()
	last := false
	if a.stdin {
		a.stdin = false
		a.c.clients--
		a.c.hadClient = a.c.hadClient || !a.unused
		last = a.c.clients == 0 && a.c.hadClient
	}
	a.c.mu.Unlock()
	if last && a.c.rec.StdinOnce {
		a.c.closeStdin()
	}
}

// detachStdin says that this client writes no more.
func (c *conn) detachStdin(number uint64) {
	c.mu.Lock()
	a := c.attached[number]
	c.mu.Unlock()
	if a != nil {
		a.endStdin()
	}
}

// endSinks ends the output of everyone attached: the container has ended.
func (st *stream) endSinks() {
	st.sinkMu.Lock()
	sinks := st.sinks
	st.sinks = nil
	st.sinkMu.Unlock()
	for _, s := range sinks {
		s.ended()
		unix.Close(s.fd)
	}
}
