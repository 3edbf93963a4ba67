// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// unknownCode is the exit code reported when no monitor saw a process end.
const unknownCode = 255

// RecordExit records one exit that the monitor reports. ErrNotFound when it is
// not a container's. Once it returns nil the monitor may forget the exit; it may
// come twice. Calls that wait for an end that cannot be recorded get the error.
func (s *Service) RecordExit(ctx context.Context, e monitor.Exit) error {
	c, err := s.Store.Container(e.ID)
	if err != nil {
		return err
	}
	if c.Phase == state.Starting {
		// The exit was faster than the launch's own answer. The start did
		// happen: readers of the feed see it before they see the end.
		_, err = s.Store.MoveContainer(c.ID, state.Run, func(c *state.Container) { c.PID = e.Pid })
	}
	if err == nil || errdefs.IsFailedPrecondition(err) {
		s.freeQuietly(ctx, c)
		c, err = s.Store.MoveContainer(c.ID, state.Exit, func(c *state.Container) {
			c.ExitCode, c.Reason, c.Message = exitStatus(e)
			c.FinishedAt, c.PID = e.Time, 0
			if e.Unknown && s.Store.Rebooted() && c.StartedAt.Before(s.began) {
				c.Reason, c.Message = "NodeRebooted", "the node was restarted while the container ran"
			}
		})
		s.forgetSignal(state.ContainerID(e.ID))
	}
	switch {
	case errdefs.IsNotFound(err): // removed meanwhile
		return err
	case errdefs.IsFailedPrecondition(err): // recorded before, or being removed
		err = nil
	case err == nil:
		s.Log.Info("container exited", "container", c.ID, "code", c.ExitCode, "reason", c.Reason)
		s.reap(c)
	}
	s.noteEnd(state.ContainerID(e.ID), err)
	return err
}

// recordUnseen records the end of a container that no monitor watched.
func (s *Service) recordUnseen(ctx context.Context, c state.Container) error {
	return s.RecordExit(ctx, monitor.Exit{ID: string(c.ID), Pid: c.PID, Code: unknownCode, Unknown: true, Time: time.Now()})
}

// reap tells plugins of the end and frees the runtime state of an exited
// container, in the background: callers that wait for the exit do not wait for this.
// What it misses, Settle and Remove repeat.
func (s *Service) reap(c state.Container) {
	state.Go(s.Ops, "reap container "+string(c.ID), func(ctx context.Context) error {
		return s.Settle(ctx, c.ID)
	}, func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			s.Log.Warn("exited container not cleaned up, its removal will try again", "container", c.ID, "err", err)
		}
	})
}

// Settle does what follows a container's end: plugins are told and its runtime
// state and cgroup are freed. One that did not end is left alone.
func (s *Service) Settle(ctx context.Context, id state.ContainerID) error {
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	c, err := s.Store.Container(string(id))
	if errdefs.IsNotFound(err) || c.Phase != state.Exited {
		return nil // removed since, or never started
	}
	updates := s.Plugins.StopContainer(ctx, s.podOf(c), s.plugin(c))
	s.settleLater(id, updates)
	return s.deleteRuntime(ctx, c)
}

// freeQuietly removes the cgroup of a container whose first process has ended,
// before that is reported: a client that sees it Exited may resize the pod's
// cgroup, which cgroup v1 refuses while a child has more. It waits for nothing.
// A cgroup in which other processes have outlived the first one stays; reap ends
// that one.
func (s *Service) freeQuietly(ctx context.Context, c state.Container) {
	if c.Phase != state.Running && c.Phase != state.Starting {
		return
	}
	if err := cgroup.Remove(ctx, ownCgroup(c)); err != nil {
		s.Log.Debug("cgroup outlives its container's first process", "container", c.ID, "err", err)
	}
}

// freeCgroup ends what is left in the cgroup of a container that has exited,
// and removes it. One that has not, or is gone, is left alone: its cgroup may be
// that of its next start.
func (s *Service) freeCgroup(ctx context.Context, id state.ContainerID) error {
	c, err := s.Store.Container(string(id))
	if errdefs.IsNotFound(err) || c.Phase != state.Exited {
		return nil
	}
	if err := cgroup.End(ctx, ownCgroup(c)); err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

// exitStatus gives an exit the words kubelets know.
func exitStatus(e monitor.Exit) (code int32, reason, message string) {
	switch {
	case e.OOM:
		reason = "OOMKilled"
	case e.Unknown:
		return unknownCode, "Unknown", "the process ended while no monitor watched it, its exit code is unknown"
	case e.Code == 0 && e.Signal == 0:
		reason = "Completed"
	default:
		reason = "Error"
	}
	code = int32(e.Code)
	if e.Signal != 0 {
		code = 128 + int32(e.Signal)
	}
	return code, reason, ""
}
