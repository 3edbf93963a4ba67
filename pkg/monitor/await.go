// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"
	"syscall"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// Kill sends SIGKILL to the container's first process and returns when the
// monitor has dealt with its end. NotFound when it has ended already;
// Unavailable when Run returns first.
func (c *Client) Kill(ctx context.Context, id string) error {
	return c.AwaitEnd(ctx, id, func() error { return c.Signal(ctx, id, int(syscall.SIGKILL)) })
}

// AwaitEnd has end called, which makes a container end, and returns when the
// monitor has dealt with that. The error is end's when there is one.
func (c *Client) AwaitEnd(ctx context.Context, id string, end func() error) error {
	ended, leave := c.exits.await(id)
	defer leave()
	if err := end(); err != nil {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-c.over:
		return wire.Unavailable(fmt.Errorf("kill %s: %w", id, errClosed))
	case <-ctx.Done():
		return fmt.Errorf("kill %s: %w", id, context.Cause(ctx))
	}
}

// Ended lists the containers whose exit has come and is not recorded yet. Asked
// after List, a container that ran before is in one of the two, or its exit was
// recorded meanwhile: an exit is sent before its container leaves the list.
func (c *Client) Ended() []string { return c.exits.pending() }

// Shutdown ends a monitor that watches nothing, and returns when it is gone.
// FailedPrecondition while containers run. Client.Run returns then: no
// successor is wanted.
func (c *Client) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	gone := c.changed
	c.shut = true
	c.mu.Unlock()
	err := c.do(ctx, &wire.Packet{Op: wire.OpShutdown})
	if wire.IsFailedPrecondition(err) {
		c.mu.Lock()
		c.shut = false
		c.mu.Unlock()
		return err
	}
	select {
	case <-gone: // also when it was gone before its answer was read
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut down: %w", context.Cause(ctx))
	}
}

func (c *Client) isShut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shut
}

// AwaitReady returns when there is a connection. The error names why there is
// none when ctx ends first.
func (c *Client) AwaitReady(ctx context.Context) error {
	for {
		c.mu.Lock()
		why, changed := c.why, c.changed
		c.mu.Unlock()
		if why == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", why, context.Cause(ctx))
		}
	}
}
