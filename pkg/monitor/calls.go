// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// Launch starts a container and returns when the launched program has exited
// and left a process. The error is a *LaunchError when the program failed. When
// ctx ends first the program is killed; whether a container came of it is then
// not known, and List or its Exit tell.
func (c *Client) Launch(ctx context.Context, l Launch) (Launched, error) {
	conn, err := c.current()
	if err != nil {
		return Launched{}, err
	}
	r, _, err := conn.call(ctx, &wire.Packet{Op: wire.OpLaunch, Launch: &l}, nil) // its descriptors are kept on arrival
	if err != nil {
		return Launched{}, err
	}
	if len(r.Running) != 1 {
		return Launched{}, errors.New("monitor: launch: no process in the answer")
	}
	return r.Running[0].Launched, nil
}

// List returns what the monitor watches, by id. A container whose launch is
// under way has pid 0; one that has ended is listed until its exit is sent.
func (c *Client) List(ctx context.Context) ([]Running, error) {
	var all []Running
	for next := ""; ; {
		r, fds, err := c.call(ctx, &wire.Packet{Op: wire.OpList, Next: next})
		wire.CloseFDs(fds)
		if err != nil {
			return nil, err
		}
		for _, x := range r.Running {
			all = append(all, x.Running)
		}
		if next = r.Next; next == "" {
			return slices.Clip(all), nil
		}
	}
}

// Knows reports whether the monitor watches the container, or has reported its
// exit and that is not recorded yet.
func (c *Client) Knows(ctx context.Context, id string) (bool, error) {
	r, fds, err := c.call(ctx, &wire.Packet{Op: wire.OpList, ID: id})
	wire.CloseFDs(fds)
	if err != nil {
		return false, err
	}
	watched := slices.ContainsFunc(r.Running, func(x wire.Listed) bool { return x.ID == id })
	return watched || slices.Contains(c.Ended(), id), nil
}

// AwaitLaunch returns when no launch of the container is under way any more: a
// daemon that died may have left one. A container without a launch is no error.
func (c *Client) AwaitLaunch(ctx context.Context, id string) error {
	return c.do(ctx, &wire.Packet{Op: wire.OpList, ID: id, AfterLaunches: true})
}

// Resize sets the size of a container's terminal, in characters.
// FailedPrecondition when it has none.
func (c *Client) Resize(ctx context.Context, id string, width, height uint16) error {
	return c.do(ctx, &wire.Packet{Op: wire.OpResize, ID: id, Width: width, Height: height})
}

// CloseStdin makes the container read the end of its input. It does nothing to
// a terminal or to input that was not asked for.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	return c.do(ctx, &wire.Packet{Op: wire.OpCloseStdin, ID: id})
}

// ReopenLog goes on in a new file at the container's log path.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	return c.do(ctx, &wire.Packet{Op: wire.OpReopenLog, ID: id})
}

// Signal sends sig to the container's first process. NotFound when it has ended.
func (c *Client) Signal(ctx context.Context, id string, sig int) error {
	return c.do(ctx, &wire.Packet{Op: wire.OpSignal, ID: id, Signal: sig})
}

// Forget drops what is left of a removed container, its exit record included.
// It may be repeated. FailedPrecondition while the container runs.
func (c *Client) Forget(ctx context.Context, id string) error {
	if err := c.do(ctx, &wire.Packet{Op: wire.OpForget, ID: id}); err != nil {
		return fmt.Errorf("forget container: %w", err)
	}
	return nil
}

// Upgrade has the monitor execute its binary anew, under the same pid, with its
// children, descriptors and connections.
func (c *Client) Upgrade(ctx context.Context) error {
	return c.do(ctx, &wire.Packet{Op: wire.OpUpgrade})
}
