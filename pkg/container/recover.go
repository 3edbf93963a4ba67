// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// action is what recovery does with one container.
type action string

const (
	keep        action = "keep"
	undo        action = "undo"         // a create that was never acknowledged: tear it down
	finish      action = "finish"       // a remove that was cut off: tear it down
	adopt       action = "adopt"        // a start that worked before anyone could say so
	withdraw    action = "withdraw"     // a start that left nothing: it never happened
	exitUnknown action = "exit unknown" // ended, and no monitor watched it
	leave       action = "leave"        // ended, and the exit feed will say how
	await       action = "await"        // a start that is not over: see what comes of it
)

// Fate is what the monitor knows of a container.
type Fate string

// The monitor's view.
const (
	Runs      Fate = "runs"
	Launching Fate = "launching" // its launch is under way
	Ended     Fate = "ended"     // its exit is in the feed
	Gone      Fate = "gone"      // the monitor never heard of it
)

// decide is recovery as a table: what the record says and what the monitor
// knows make one action.
func decide(p state.Phase, f Fate) action {
	switch p {
	case state.Creating:
		return undo
	case state.Removing:
		return finish
	case state.Starting:
		return map[Fate]action{Runs: adopt, Launching: await, Ended: leave, Gone: withdraw}[f]
	case state.Running:
		return map[Fate]action{Runs: keep, Launching: leave, Ended: leave, Gone: exitUnknown}[f]
	default: // Created, Exited
		return keep
	}
}

// Recover brings one container's record in line with the kernel after the
// daemon was away. pid is what the monitor watches when fate is Runs. rest, where
// there is any, undoes or finishes what was cut off: calls need not wait for it.
func (s *Service) Recover(ctx context.Context, c state.Container, fate Fate, pid int) (rest func(context.Context) error, err error) {
	act := decide(c.Phase, fate)
	if act != keep && act != leave {
		s.Log.Info("container recovered", "container", c.ID, "phase", c.Phase, "fate", fate, "action", act)
	}
	switch act {
	case undo, finish, withdraw, await:
		return func(ctx context.Context) error { return s.finishRecovery(ctx, c.ID) }, nil
	case adopt:
		_, err = s.Store.MoveContainer(c.ID, state.Run, func(c *state.Container) { c.PID = pid })
	case exitUnknown:
		err = s.recordUnseen(ctx, c)
	case keep, leave:
	}
	if err != nil {
		return nil, fmt.Errorf("recover container %s (%s, %s): %w", c.ID, c.Phase, fate, err)
	}
	return nil, nil
}

// finishRecovery ends what the last daemon was doing with the container. A
// call may have been faster, and then there is nothing to do.
func (s *Service) finishRecovery(ctx context.Context, id state.ContainerID) error {
	_, err := state.Do(ctx, s.Ops, "recover container "+string(id), func(ctx context.Context) (struct{}, error) {
		release, err := s.lock(ctx, id)
		if err != nil {
			return struct{}{}, err
		}
		defer release()
		c, err := s.Store.Container(string(id))
		switch {
		case errdefs.IsNotFound(err):
			return struct{}{}, nil
		case err != nil:
			return struct{}{}, err
		case c.Phase == state.Starting:
			return struct{}{}, s.resumeLaunch(ctx, c)
		case c.Phase == state.Creating || c.Phase == state.Removing:
			return struct{}{}, s.teardown(ctx, id)
		}
		return struct{}{}, nil
	})
	if err != nil {
		return fmt.Errorf("recover container %s: %w", id, err)
	}
	return nil
}

// launchLimit is how long a launch that the last daemon left may go on: one takes
// milliseconds, unless its runtime hangs.
const launchLimit = 5 * time.Second

// resumeLaunch adopts what comes of a launch that the last daemon left under way.
// Where nothing does in time, the start never happened.
func (s *Service) resumeLaunch(ctx context.Context, c state.Container) error {
	limited, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	if err := s.Monitor.AwaitLaunch(limited, string(c.ID)); err != nil {
		s.Log.Warn("a start begun by the last daemon is still running", "container", c.ID, "err", err)
	}
	_, err := s.resume(ctx, c)
	return err
}

// ForgetExecs removes what the last daemon's commands in the container left. The
// commands themselves ended with it; what they started on purpose lives on.
func (s *Service) ForgetExecs(c state.Container) error {
	cgroup.RemoveEmptySubs(c.Cgroup, isExecGroup)
	return s.Runtime.RemoveExecs(string(c.ID))
}

// RemoveOrphan tears down what carries a container's id and has no record, or
// whose pod has none. It goes on when ctx ends, for no client would ask for it again.
func (s *Service) RemoveOrphan(ctx context.Context, id state.ContainerID) error {
	_, err := state.Do(ctx, s.Ops, "remove orphan "+string(id), func(ctx context.Context) (struct{}, error) {
		release, err := s.lock(ctx, id)
		if err != nil {
			return struct{}{}, err
		}
		defer release()
		return struct{}{}, s.teardown(ctx, id)
	})
	if err == nil {
		s.Log.Warn("traces without a record removed", "id", id)
	}
	return err
}
