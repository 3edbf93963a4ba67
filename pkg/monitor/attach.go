// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// detachTimeout bounds what closing an attachment waits for.
const detachTimeout = 5 * time.Second

// Attachment is a client's connection to a running container's stdio: from the
// moment of Attach on, nothing is repeated. Streams that were not asked for, or
// that the container does not have, are nil.
type Attachment struct {
	Stdin  io.WriteCloser // Close: no more input from here; with StdinOnce the container reads its end
	Stdout io.ReadCloser  // io.EOF when the container ended; another error when the client was too slow or the monitor died
	Stderr io.ReadCloser

	c       *Client
	link    *link
	id      string
	number  uint64
	cleanup context.Context //nolint:containedctx // without cancellation, for closing
	stdin   *attachedInput
	ended   chan struct{}
	once    sync.Once
	over    sync.Once
	reason  error // why output ended, valid after ended
}

// Attach connects to a running container. NotFound when it is not running.
func (c *Client) Attach(ctx context.Context, id string, o AttachOptions) (*Attachment, error) {
	l, err := c.current()
	if err != nil {
		return nil, err
	}
	r, fds, err := l.call(ctx, &wire.Packet{Op: wire.OpAttach, ID: id, Attach: &o}, nil)
	if err != nil {
		return nil, err
	}
	if len(fds) != len(r.FDs) {
		l.undo(context.WithoutCancel(ctx), answer{p: r, fds: fds})
		l.forgetSession(r.Session)
		return nil, fmt.Errorf("attach %s: %d descriptors came, %d announced", id, len(fds), len(r.FDs))
	}
	a := &Attachment{c: c, link: l, id: id, number: r.Session, cleanup: context.WithoutCancel(ctx), ended: make(chan struct{})}
	for i, kind := range r.FDs {
		_ = unix.SetNonblock(fds[i], true)
		file := os.NewFile(uintptr(fds[i]), string(kind))
		switch kind {
		case wire.Stdin:
			a.stdin = &attachedInput{a: a, file: file}
			a.Stdin = a.stdin
			c.trackStdin(a, true)
		case wire.Stdout:
			a.Stdout = &attachedOutput{a: a, file: file}
		case wire.Stderr:
			a.Stderr = &attachedOutput{a: a, file: file}
		default:
			file.Close()
		}
	}
	l.onSession(a.number, a.finish)
	return a, nil
}

// Close detaches. It may be repeated.
func (a *Attachment) Close() error {
	a.once.Do(func() {
		a.link.forgetSession(a.number)
		for _, out := range []io.ReadCloser{a.Stdout, a.Stderr} {
			if out != nil {
				out.Close()
			}
		}
		if a.stdin != nil {
			a.c.trackStdin(a, false)
			a.stdin.file.Close()
		}
		a.tell(wire.OpDetach)
		a.finish(&wire.Packet{})
	})
	return nil
}

// Ended is closed when nothing more will come through Stdout and Stderr than
// what is in them.
func (a *Attachment) Ended() <-chan struct{} { return a.ended }

// Err tells why the output ended, once Ended is closed: nil when the container
// did, otherwise what a reader gets after the last byte.
func (a *Attachment) Err() error {
	if errors.Is(a.reason, io.EOF) {
		return nil
	}
	return a.reason
}

func (a *Attachment) tell(o wire.Op) {
	a.link.tell(a.cleanup, &wire.Packet{Op: o, Session: a.number})
}

// finish notes why the output ends.
func (a *Attachment) finish(p *wire.Packet) {
	a.over.Do(func() {
		switch {
		case p == nil:
			a.reason = wire.Unavailable(errors.New("attach: connection to the monitor lost"))
		case p.Reason != "":
			a.reason = wire.ResourceExhausted(fmt.Errorf("attach: dropped: %s", p.Reason))
		default:
			a.reason = io.EOF
		}
		close(a.ended)
	})
}

// trackStdin lists or unlists an attachment that dropStdin has to close.
func (c *Client) trackStdin(a *Attachment, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.copies[a.id]
	if k == nil {
		return // it has ended meanwhile
	}
	if on {
		k.attached[a] = struct{}{}
		return
	}
	delete(k.attached, a)
}

// attachedInput writes into the container's own pipe or terminal.
type attachedInput struct {
	a    *Attachment
	file *os.File
	once sync.Once
}

// Write waits while the container does not read. io.ErrClosedPipe when its
// stdin was closed.
func (i *attachedInput) Write(b []byte) (int, error) {
	n, err := i.file.Write(b)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed) {
		err = io.ErrClosedPipe
	}
	return n, err
}

func (i *attachedInput) Close() error {
	i.once.Do(func() {
		i.a.c.trackStdin(i.a, false)
		i.file.Close()
		i.a.tell(wire.OpDetachStdin)
	})
	return nil
}

// attachedOutput reads what the monitor passes on.
type attachedOutput struct {
	a    *Attachment
	file *os.File
}

func (o *attachedOutput) Read(b []byte) (int, error) {
	n, err := o.file.Read(b)
	if errors.Is(err, io.EOF) {
		<-o.a.ended // the monitor tells why before it closes the pipe; a lost connection does too
		err = o.a.reason
	}
	return n, err
}

// Close discards the rest.
func (o *attachedOutput) Close() error { return o.file.Close() }
