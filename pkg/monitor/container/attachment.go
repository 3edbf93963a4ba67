// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/crilog"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Attachment is one client attached to one container: output comes to it through
// pipes the monitor fills; input it writes itself, into the container's pipe or
// terminal, of which it gets a descriptor.
type Attachment struct {
	c      *Container
	tell   func(reason string) // before the client sees its pipes end; "": the container ended
	stdin  bool                // counted in Container.clients
	unused bool                // its client never knew of it
	sinks  map[*crilog.Sink]*crilog.Stream
}

// Attach makes an attachment, and the client's descriptors. tell is called when it
// ends by itself: once for each stream, with the reason when the client was too
// slow.
func (c *Container) Attach(o wire.Attach, tell func(reason string)) (*Attachment, []wire.FDKind, []int, error) {
	a := &Attachment{c: c, tell: tell, sinks: map[*crilog.Sink]*crilog.Stream{}}
	kinds, fds, err := a.open(o)
	if err != nil {
		a.End()
		return nil, nil, nil, err
	}
	return a, kinds, fds, nil
}

// open makes the client's descriptors. On error there is nothing to close but
// what End closes.
func (a *Attachment) open(o wire.Attach) (kinds []wire.FDKind, fds []int, err error) {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	if a.c.ended {
		return nil, nil, wire.NotFound(fmt.Errorf("container has ended"))
	}
	if o.Stdin {
		fd, err := a.c.stdinForClient()
		if err != nil {
			return nil, nil, err
		}
		if fd >= 0 {
			a.stdin = true
			a.c.clients++
			kinds, fds = append(kinds, wire.Stdin), append(fds, fd)
		}
	}
	for _, st := range a.c.out.Streams() {
		if stderr := st.Name() == "stderr"; stderr && !o.Stderr || !stderr && !o.Stdout {
			continue
		}
		fd, err := a.sink(st)
		if err != nil {
			wire.CloseFDs(fds)
			return nil, nil, err
		}
		kinds, fds = append(kinds, wire.FDKind(st.Name())), append(fds, fd)
	}
	return kinds, fds, nil
}

// stdinForClient returns a write end of the container's stdin, -1 when it has
// none or it was closed. The caller holds mu.
func (c *Container) stdinForClient() (int, error) {
	if c.rec.Terminal && c.tty < 0 { // not there yet, or lost with a monitor
		return -1, nil
	}
	if c.rec.Terminal {
		return sys.Duplicate(c.tty)
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
func (a *Attachment) sink(st *crilog.Stream) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, fmt.Errorf("make pipe: %w", err)
	}
	a.connect(st, pipe[1])
	return pipe[0], nil
}

// connect passes the stream on to fd, the write end of a pipe.
func (a *Attachment) connect(st *crilog.Stream, fd int) {
	s := &crilog.Sink{
		FD:      fd,
		Dropped: func() { a.tell("client did not read") },
		Ended:   func() { a.tell("") },
	}
	a.sinks[s] = st
	st.Attach(s)
}

// End closes the attachment's pipes, and the container's stdin if this was its
// one chance.
func (a *Attachment) End() {
	for s, st := range a.sinks {
		st.Detach(s)
	}
	a.EndStdin()
}

// EndStdin says that this client writes no more.
func (a *Attachment) EndStdin() {
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
		a.c.CloseStdin()
	}
}

// EndUnused is End for an attachment that its client never knew of.
func (a *Attachment) EndUnused() {
	a.unused = true
	a.End()
}

// Inherited is an attachment as one image of the monitor leaves it to the next.
type Inherited struct {
	ID    string         `json:"id"`
	Stdin bool           `json:"stdin,omitempty"`
	Sinks map[string]int `json:"sinks,omitempty"` // descriptors by the stream's name
}

// Leave lists the attachment for the next image. The descriptors are duplicates,
// the caller's.
func (a *Attachment) Leave() Inherited {
	left := Inherited{ID: a.c.rec.ID, Stdin: a.stdin, Sinks: map[string]int{}}
	for s, st := range a.sinks {
		if fd, err := st.Duplicate(s); err == nil {
			left.Sinks[st.Name()] = fd
		}
	}
	return left
}

// Inherit takes over an attachment and its descriptors. NotFound when its container
// has ended.
func (s *Set) Inherit(left Inherited, tell func(reason string)) (*Attachment, error) {
	c, err := s.Get(left.ID)
	if err != nil {
		for _, fd := range left.Sinks {
			unix.Close(fd)
		}
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &Attachment{c: c, tell: tell, stdin: left.Stdin, sinks: map[*crilog.Sink]*crilog.Stream{}}
	if a.stdin {
		c.clients++
	}
	for _, st := range c.out.Streams() {
		if fd, ok := left.Sinks[st.Name()]; ok {
			a.connect(st, fd)
		}
	}
	return a, nil
}
