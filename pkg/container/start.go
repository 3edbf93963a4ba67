// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startErrorCode is what kubelets know as "could not be executed".
const startErrorCode = 128

// Start runs a created container. A program that cannot be executed leaves it
// Exited with code 128 and reason StartError, and is an error as well.
func (s *Service) Start(ctx context.Context, id state.ContainerID) error {
	_, err := state.Do(ctx, s.Ops, "start container "+string(id), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.start(ctx, id)
	})
	return err
}

func (s *Service) start(ctx context.Context, id state.ContainerID) error {
	state.Stage(ctx, "wait for container")
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	c, err := s.Store.Container(string(id))
	if err != nil {
		return err
	}
	pod, err := s.readyPod(c.Pod)
	if err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	if c.Phase == state.Starting { // an earlier start failed, and so did the record of that
		if err := s.withdraw(ctx, c); err != nil {
			return fmt.Errorf("start container %s: %w", id, err)
		}
	}
	c, err = s.Store.MoveContainer(id, state.Launch, func(c *state.Container) { c.StartedAt = time.Now() })
	if err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	launched, err := s.launch(ctx, pod, c)
	if err != nil {
		return s.startFailed(ctx, c, err)
	}
	trace := state.Trace(ctx)
	runs, err := s.Store.MoveContainer(id, state.Run, func(c *state.Container) {
		c.PID, c.Trace = launched.Pid, append(c.Trace, trace...)
	})
	if errdefs.IsFailedPrecondition(err) {
		return nil // it has exited already, and the exit feed was faster
	}
	if err != nil {
		return s.startFailed(ctx, c, err)
	}
	s.Plugins.PostStartContainer(ctx, PluginPod(pod), s.plugin(runs))
	return nil
}

func (s *Service) launch(ctx context.Context, pod state.Pod, c state.Container) (launched monitor.Launched, err error) {
	err = state.Steps(ctx,
		state.Step{Name: "ask plugins", Do: func(ctx context.Context) error {
			return s.Plugins.StartContainer(ctx, PluginPod(pod), s.plugin(c))
		}},
		state.Step{Name: "mount root filesystem", Do: func(ctx context.Context) error { return s.mount(ctx, pod, c) }},
		state.Step{Name: "run container", Do: func(ctx context.Context) (err error) {
			uid, gid := s.stdioOwner(pod, c)
			launched, err = s.Runtime.Launch(ctx, runc.Launch{
				Handler: pod.Handler, ID: string(c.ID), LogPath: c.LogPath,
				Stdio: true, Terminal: c.Config.Tty, Stdin: c.Config.Stdin, StdinOnce: c.Config.StdinOnce,
				UID: uid, GID: gid, Cgroups: sys.CgroupDirs(c.Cgroup), KillAll: sharesPIDs(c),
			})
			return err
		}},
	)
	return launched, err
}

// startFailed books a start that did not work. When it ran nothing and the
// cause was the daemon's side (monitor away, shutdown), the container goes back
// to Created and may be started again. What did run is ended, and booked as
// what it is by the exit feed.
func (s *Service) startFailed(ctx context.Context, c state.Container, cause error) error {
	ctx, cancel := state.Cleanup(ctx)
	defer cancel()
	err := fmt.Errorf("start container %s: %w", c.ID, cause)
	ran := s.Monitor.Kill(ctx, string(c.ID)) == nil
	if cleanup := s.deleteRuntime(ctx, c); cleanup != nil {
		err = errors.Join(err, cleanup)
	}
	if ran {
		if _, late := s.Store.AwaitContainer(ctx, c.ID, func(c state.Container) bool { return !c.Phase.Live() }); late != nil {
			err = errors.Join(err, late)
		}
		return err
	}
	var failed *monitor.LaunchError
	if !errors.As(cause, &failed) && !errdefs.IsNotFound(cause) {
		if move := s.backToCreated(c.ID); move != nil {
			err = errors.Join(err, move)
		}
		return err
	}
	_, move := s.Store.MoveContainer(c.ID, state.Exit, func(c *state.Container) {
		c.ExitCode, c.Reason, c.Message = startErrorCode, "StartError", cause.Error()
		c.FinishedAt = time.Now()
	})
	if move != nil {
		err = errors.Join(err, move)
	}
	return err
}

// withdraw makes a start that left nothing behind one that never happened. The
// caller knows that no start is under way.
func (s *Service) withdraw(ctx context.Context, c state.Container) error {
	if err := s.deleteRuntime(ctx, c); err != nil {
		return err
	}
	return s.backToCreated(c.ID)
}

// backToCreated books that. A container that has exited by then did start.
func (s *Service) backToCreated(id state.ContainerID) error {
	_, err := s.Store.MoveContainer(id, state.Withdraw, func(c *state.Container) { c.StartedAt = time.Time{} })
	if errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

// sharesPIDs tells whether the container's first process is not the first of
// its PID namespace, so that its end does not end the others.
func sharesPIDs(c state.Container) bool {
	pid := c.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
	return pid != cri.NamespaceMode_CONTAINER
}
