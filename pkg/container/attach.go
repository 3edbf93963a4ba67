// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"io"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// AttachIO are the streams of a caller who joins a running container.
type AttachIO struct {
	TTY    bool
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Resize <-chan Size
}

// Attach connects the caller to the container's own streams until the
// container ends. Only the caller's view ends when it leaves, reads too slowly
// or ctx is over: the container does not notice, and the error says why.
// ErrResourceExhausted: the caller did not read.
func (s *Service) Attach(ctx context.Context, id state.ContainerID, a AttachIO) error {
	c, _, err := s.running(id)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	session, err := s.Monitor.Attach(ctx, string(c.ID), monitor.AttachOptions{
		Stdin: a.Stdin != nil && c.Config.Stdin, Stdout: a.Stdout != nil, Stderr: a.Stderr != nil && !c.Config.Tty,
	})
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.ID, err)
	}
	defer session.Close()
	if a.Resize != nil && c.Config.Tty {
		resizing, stop := context.WithCancel(ctx)
		defer stop()
		go s.resizeContainer(resizing, c.ID, a.Resize)
	}
	if session.Stdin != nil {
		go func() {
			copyIn(session.Stdin, a.Stdin)
			session.Stdin.Close()
		}()
	}
	if session.Stdout == nil && session.Stderr == nil {
		err = s.awaitEnd(ctx, c.ID) // there is no output whose end would tell
	} else {
		owed, leave := s.whileOwed(ctx, c.ID)
		err = passOn(owed, session, a)
		leave()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.ID, err)
	}
	return nil
}

// passOn copies a session's output to the caller until the container has ended.
// One output that was cut short ends the session: the caller must not take the
// rest for the whole.
func passOn(ctx context.Context, session *monitor.Attachment, a AttachIO) error {
	ended := make(chan error, 2)
	outputs := 0
	for _, o := range []struct {
		to   io.Writer
		from io.Reader
	}{{a.Stdout, session.Stdout}, {a.Stderr, session.Stderr}} {
		if o.from != nil {
			outputs++
			go func() { // ends with the container, the session, or the caller's connection
				_, err := io.Copy(o.to, o.from)
				ended <- err
			}()
		}
	}
	dropped := session.Ended()
	for outputs > 0 {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			outputs--
		case <-dropped:
			if err := session.Err(); err != nil {
				return err // at once: a copy may be waiting for the caller
			}
			dropped = nil // the container has ended, and the caller gets the rest
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *Service) resizeContainer(ctx context.Context, id state.ContainerID, sizes <-chan Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if err := s.Monitor.Resize(ctx, string(id), size.Width, size.Height); err != nil {
				s.Log.Debug("terminal not resized", "container", id, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// ReopenLog makes the container's next log line go to a new file at its log
// path, after a kubelet rotated the old one away. Only for running containers:
// otherwise no new file appears.
func (s *Service) ReopenLog(ctx context.Context, id state.ContainerID) error {
	c, _, err := s.running(id)
	if err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	if err := s.Monitor.ReopenLog(ctx, string(c.ID)); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", c.ID, err)
	}
	return nil
}
