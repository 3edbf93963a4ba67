// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Kill sends SIGKILL to the container's first process and returns when the
// monitor has dealt with its end. NotFound when it has ended already.
func (c *Client) Kill(ctx context.Context, id string) error {
	ended := make(chan struct{})
	c.mu.Lock()
	c.endings[id] = append(c.endings[id], ended)
	c.mu.Unlock()
	defer c.forgetEnding(id, ended)
	if err := c.Signal(ctx, id, int(syscall.SIGKILL)); err != nil {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill %s: %w", id, context.Cause(ctx))
	}
}

// noteEnding wakes whoever waits for the end of id.
func (c *Client) noteEnding(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ended := range c.endings[id] {
		close(ended)
	}
	delete(c.endings, id)
}

func (c *Client) forgetEnding(id string, ended chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.endings[id][:0]
	for _, e := range c.endings[id] {
		if e != ended {
			kept = append(kept, e)
		}
	}
	if len(kept) == 0 {
		delete(c.endings, id)
		return
	}
	c.endings[id] = kept
}

// Ended lists the containers whose exit waits in Exits to be read. Asked after
// List, the two together name every container the monitor knows of: an exit is
// sent before its container leaves the list.
func (c *Client) Ended() []string { return c.exits.pending() }

// Shutdown ends a monitor that watches nothing, and returns when it is gone.
// FailedPrecondition while containers run. Client.Run returns then: no
// successor is wanted.
func (c *Client) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	gone := c.changed
	c.shut = true
	c.mu.Unlock()
	err := c.do(ctx, &packet{Op: opShutdown})
	var refused failedCondition
	if errors.As(err, &refused) {
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
