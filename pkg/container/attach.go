// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"io"
	"sync"

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
// container ends, the caller leaves, or ctx is over. Only the caller's view
// ends: the container does not notice.
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
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	defer session.Close()
	if a.Resize != nil && c.Config.Tty {
		go s.resizeContainer(ctx, c.ID, a.Resize)
	}
	if session.Stdin != nil {
		go func() {
			io.Copy(session.Stdin, a.Stdin) // ends with the caller's stream or the session
			session.Stdin.Close()
		}()
	}
	var outputs sync.WaitGroup
	copyOut := func(to io.Writer, from io.Reader) {
		outputs.Go(func() { io.Copy(to, from) }) // ends with the container, the caller or the session
	}
	if session.Stdout != nil {
		copyOut(a.Stdout, session.Stdout)
	}
	if session.Stderr != nil {
		copyOut(a.Stderr, session.Stderr)
	}
	outputs.Wait()
	if session.Stdout != nil || session.Stderr != nil {
		return nil
	}
	err = s.awaitEnd(ctx, c.ID) // a session with stdin only is open for as long as the container runs
	if ctx.Err() != nil {
		return nil
	}
	return err
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
