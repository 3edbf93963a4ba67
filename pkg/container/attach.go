// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// Attach connects the client to the container's own streams until the
// container ends. Only the client's view ends when it leaves, reads too slowly
// or ctx is over: the container does not notice, and the error says why.
// ErrResourceExhausted: the client did not read.
func (s *Service) Attach(ctx context.Context, id state.ContainerID, client stdio.Client) error {
	c, _, err := s.running(id)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	session, err := s.Monitor.Attach(ctx, string(c.ID), monitor.AttachOptions{
		Stdin: client.Stdin != nil && c.Config.Stdin, Stdout: client.Stdout != nil, Stderr: client.Stderr != nil && !c.Config.Tty,
	})
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.ID, err)
	}
	defer session.Close()
	if client.Resize != nil && c.Config.Tty {
		resizing, stop := context.WithCancel(ctx)
		defer stop()
		go client.EachSize(resizing.Done(), func(size stdio.Size) {
			if err := s.Monitor.Resize(resizing, string(c.ID), size.Width, size.Height); err != nil {
				s.Log.Debug("terminal not resized", "container", c.ID, "err", err)
			}
		})
	}
	if session.Stdin != nil {
		go stdio.Feed(session.Stdin, client.Stdin)
	}
	ended := func(ctx context.Context) error { return s.awaitEnd(ctx, c.ID) }
	if session.Stdout == nil && session.Stderr == nil {
		err = ended(ctx) // there is no output whose end would tell
	} else {
		owed, leave := stdio.WhileOwed(ctx, ended)
		err = stdio.PassOn(owed, session, client)
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
