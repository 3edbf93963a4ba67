// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// killLimit is how long a process may take to die of SIGKILL. Only one in
// uninterruptible sleep takes longer than milliseconds; the caller is told and
// may try again.
const killLimit = 10 * time.Second

// Stop ends a container: its stop signal, then after grace SIGKILL. A grace of
// zero kills at once. Several Stops of one container do not wait for each
// other: the shortest grace wins, the stop signal is sent once. What does not
// run is stopped already.
func (s *Service) Stop(ctx context.Context, id state.ContainerID, grace time.Duration) error {
	return state.Alone(ctx, s.Ops, "stop container "+string(id), func(ctx context.Context) error {
		if grace > 0 {
			stopped, err := s.signalAndWait(ctx, id, grace)
			if err != nil || stopped {
				return err
			}
		}
		return s.kill(ctx, id)
	})
}

// signalAndWait sends the stop signal and waits for the end or for grace.
func (s *Service) signalAndWait(ctx context.Context, id state.ContainerID, grace time.Duration) (stopped bool, err error) {
	c, err := s.settled(ctx, id)
	if err != nil || !c.Phase.Live() {
		return err == nil, err
	}
	if s.firstSignal(id) {
		number, _, err := oci.StopSignal(&cri.ContainerConfig{StopSignal: cri.Signal(c.StopSignal)}, "")
		if err != nil {
			return false, fmt.Errorf("stop container %s: %w", id, err)
		}
		if err := s.Monitor.Signal(ctx, string(id), number); err != nil && !errdefs.IsNotFound(err) {
			return false, fmt.Errorf("stop container %s: signal %d: %w", id, number, err)
		}
		if err := state.Point(ctx, "stop signal is sent"); err != nil {
			return false, fmt.Errorf("stop container %s: %w", id, err)
		}
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
	err = s.Monitor.Signal(ctx, string(id), sys.SIGKILL)
	if errdefs.IsNotFound(err) && c.Phase == state.Starting {
		return s.withdrawStuck(ctx, id)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("stop container %s: kill: %w", id, err)
	}
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

// firstSignal tells whether this is the first Stop to signal the container: a
// second stop signal makes many programs give up their orderly end.
func (s *Service) firstSignal(id state.ContainerID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signaled[id] {
		return false
	}
	s.signaled[id] = true
	return true
}

func (s *Service) forgetSignal(id state.ContainerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.signaled, id)
}
