// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// killLimit is how long a process may take to die of SIGKILL. Only one in
// uninterruptible sleep takes longer than milliseconds; the caller is told and
// may try again.
const killLimit = 10 * time.Second

// Stop ends a container: its stop signal, then after grace SIGKILL. A grace of
// zero kills at once. It returns when no process and no cgroup of the container
// is left. Several Stops of one container do not wait for each other: the
// shortest grace wins, the stop signal is sent once. What does not run is
// stopped already.
func (s *Service) Stop(ctx context.Context, id state.ContainerID, grace time.Duration) error {
	return state.Alone(ctx, s.Ops, "stop container "+string(id), func(ctx context.Context) error {
		stopped := false
		if grace > 0 {
			var err error
			if stopped, err = s.signalAndWait(ctx, id, grace); err != nil {
				return err
			}
		}
		if !stopped {
			if err := s.kill(ctx, id); err != nil {
				return err
			}
		}
		return s.freeCgroup(ctx, id)
	})
}

// signalAndWait sends the stop signal and waits for the end or for grace.
func (s *Service) signalAndWait(ctx context.Context, id state.ContainerID, grace time.Duration) (stopped bool, err error) {
	c, err := s.settled(ctx, id)
	if err != nil || !c.Phase.Live() {
		return err == nil, err
	}
	if err := s.signalOnce(ctx, id); err != nil {
		return false, err
	}
	graceCtx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err = s.awaitEnd(graceCtx, id)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, fmt.Errorf("stop container %s: waiting for it to end: %w", id, context.Cause(ctx))
	case graceCtx.Err() != nil:
		return false, nil
	}
	return false, fmt.Errorf("stop container %s: %w", id, err)
}

// signalOnce sends the stop signal unless it was sent: a second one makes many
// programs give up their orderly end. Stops that come together share one
// attempt, which a caller that gives up does not cut off. One that failed is
// made again by the next Stop.
func (s *Service) signalOnce(ctx context.Context, id state.ContainerID) error {
	_, err := state.Do(ctx, s.Ops, "send stop signal to container "+string(id), func(ctx context.Context) (struct{}, error) {
		c, err := s.Store.Container(string(id))
		if err != nil || !c.Phase.Live() || s.wasSignaled(c) {
			return struct{}{}, err
		}
		number, _, err := oci.StopSignal(&cri.ContainerConfig{StopSignal: cri.Signal(c.StopSignal)}, "")
		if err != nil {
			return struct{}{}, err
		}
		err = s.Runtime.Signal(ctx, s.handlerOf(c), string(id), number)
		if errdefs.IsNotFound(err) {
			return struct{}{}, nil // it has ended, or never began: the wait for its end tells
		}
		if err != nil {
			return struct{}{}, fmt.Errorf("signal %d: %w", number, err)
		}
		s.noteSignal(id)
		return struct{}{}, state.Point(ctx, "stop signal is sent")
	})
	if errdefs.IsNotFound(err) {
		return nil // removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

func (s *Service) wasSignaled(c state.Container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !c.StopSignaled.IsZero() || s.signaled[c.ID]
}

// noteSignal remembers that the stop signal was sent, for the next daemon too.
// A disk that refuses to note it does not keep the container from its end.
func (s *Service) noteSignal(id state.ContainerID) {
	s.mu.Lock()
	s.signaled[id] = true
	s.mu.Unlock()
	_, err := s.Store.UpdateContainer(id, func(c *state.Container) { c.StopSignaled = time.Now() })
	if err != nil && !errdefs.IsNotFound(err) {
		s.Log.Warn("stop signal not recorded, a Stop after a restart of the daemon would send it again", "container", id, "err", err)
	}
}

func (s *Service) forgetSignal(id state.ContainerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.signaled, id)
}

// settled waits until a start in flight has either worked or not. What is still
// Starting then is a start whose failure could not be recorded.
func (s *Service) settled(ctx context.Context, id state.ContainerID) (state.Container, error) {
	c, err := s.Store.Container(string(id))
	if err != nil || c.Phase != state.Starting {
		return c, err
	}
	release, err := s.lock(ctx, id) // a start holds it
	if err != nil {
		return c, fmt.Errorf("stop container %s: its start is under way: %w", id, err)
	}
	release()
	return s.Store.Container(string(id))
}

// kill sends SIGKILL and waits for the end.
func (s *Service) kill(ctx context.Context, id state.ContainerID) error {
	c, err := s.settled(ctx, id)
	if err != nil || !c.Phase.Live() {
		return err
	}
	err = s.Runtime.Signal(ctx, s.handlerOf(c), string(id), sys.SIGKILL)
	if errdefs.IsNotFound(err) && c.Phase == state.Starting {
		return s.withdrawStuck(ctx, id)
	}
	if errdefs.IsNotFound(err) {
		err = s.recordLost(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("stop container %s: kill: %w", id, err)
	}
	cgroup.Thaw(ctx, cgroup.Dirs(ownCgroup(c)))
	if err := state.Point(ctx, "kill is sent"); err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	limited, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	err = s.awaitEnd(limited, id)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("stop container %s: killed, waiting for its end: %w", id, context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("stop container %s: process %d is %s %s after SIGKILL: %w",
			id, c.PID, sys.ProcessState(c.PID), killLimit, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("stop container %s: %w", id, err)
}

// recordLost records the end of a running container that the monitor does not
// know of. One whose exit is on its way is left to that.
func (s *Service) recordLost(ctx context.Context, c state.Container) error {
	known, err := s.Monitor.Knows(ctx, string(c.ID))
	if err != nil || known {
		return err
	}
	return s.recordUnseen(ctx, c)
}

// withdrawStuck books a start whose failure could not be recorded at the time.
func (s *Service) withdrawStuck(ctx context.Context, id state.ContainerID) error {
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	c, err := s.Store.Container(string(id))
	if err != nil || c.Phase != state.Starting {
		return err
	}
	return s.withdraw(ctx, c)
}
