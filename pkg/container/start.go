// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container/nriview"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
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
	if c.Phase == state.Starting {
		if runs, err := s.resume(ctx, c); runs || err != nil {
			return err
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
	s.Plugins.PostStartContainer(ctx, nriview.Pod(pod), s.plugin(runs))
	return nil
}

func (s *Service) launch(ctx context.Context, pod state.Pod, c state.Container) (launched monitor.Launched, err error) {
	err = state.Steps(ctx,
		state.Step{Name: "ask plugins", Do: func(ctx context.Context) error {
			return s.Plugins.StartContainer(ctx, nriview.Pod(pod), s.plugin(c))
		}},
		state.Step{Name: "mount root filesystem", Do: func(ctx context.Context) error { return s.mount(ctx, pod, c) }},
		state.Step{Name: "make log directory", Do: func(ctx context.Context) error { return s.makeLogDir(ctx, c) }},
		state.Step{Name: "run container", Do: func(ctx context.Context) (err error) {
			uid, gid := s.stdioOwner(pod, c)
			s.holdProfile()
			logDir, _ := logDir(c)
			path, killAll, err := s.lifeline(pod, c)
			if err != nil {
				return err
			}
			launched, err = s.Runtime.Launch(ctx, runc.Launch{
				Handler: pod.Handler, ID: string(c.ID), LogPath: c.LogPath, LogDir: logDir,
				Stdio: true, Terminal: c.Config.Tty, Stdin: c.Config.Stdin, StdinOnce: c.Config.Stdin && c.Config.StdinOnce,
				UID: uid, GID: gid, Label: labels(pod, c).Mount, Cgroups: cgroup.Dirs(path), KillAll: killAll,
			})
			return err
		}},
	)
	return launched, err
}

// startFailed books a start that did not work. A program that could not be
// executed has had its one start. When the cause was the daemon's side (monitor
// away, shutdown), the container may be started again.
func (s *Service) startFailed(ctx context.Context, c state.Container, cause error) error {
	ctx, cancel := state.Cleanup(ctx)
	defer cancel()
	err := fmt.Errorf("start container %s: %w", c.ID, cause)
	var failed *monitor.LaunchError
	if !errors.As(cause, &failed) && !errdefs.IsNotFound(cause) {
		if cleanup := s.withdraw(ctx, c); cleanup != nil {
			s.undoStart(c.ID)
			return errors.Join(err, cleanup)
		}
		return err
	}
	if cleanup := s.deleteRuntime(ctx, c); cleanup != nil {
		err = errors.Join(err, cleanup)
	}
	_, move := s.Store.MoveContainer(c.ID, state.Exit, func(c *state.Container) {
		c.ExitCode, c.Reason, c.Message = startErrorCode, "StartError", cause.Error()
		c.FinishedAt = time.Now()
	})
	return errors.Join(err, move)
}

// undoRetry is the pause between attempts to undo a start: there is no event
// for "the disk works again".
const undoRetry = time.Second

// undoStart withdraws a start whose outcome could not be learnt or recorded, as
// soon as that is possible. A repeated start may be faster and adopt what runs.
func (s *Service) undoStart(id state.ContainerID) {
	state.Go(s.Ops, "undo start of "+string(id), func(ctx context.Context) error {
		for said := ""; ; {
			err := s.Monitor.AwaitReady(ctx)
			if err == nil {
				err = s.withdrawStuck(ctx, id)
			}
			if err == nil || errdefs.IsNotFound(err) {
				return nil
			}
			if err.Error() != said { // once, not once per attempt
				said = err.Error()
				s.Log.Warn("start not undone, trying again", "container", id, "err", err)
			}
			select {
			case <-time.After(undoRetry):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}, func(error) {})
}

// resume deals with an earlier start whose outcome could not be learnt or
// recorded: what runs is adopted, and else the start never happened.
func (s *Service) resume(ctx context.Context, c state.Container) (runs bool, err error) {
	watched, err := s.Monitor.List(ctx)
	if err != nil {
		return false, fmt.Errorf("start container %s: look for the outcome of an earlier start: %w", c.ID, err)
	}
	for _, w := range watched {
		if w.ID != string(c.ID) || w.Pid == 0 {
			continue
		}
		_, err := s.Store.MoveContainer(c.ID, state.Run, func(c *state.Container) { c.PID = w.Pid })
		if errdefs.IsFailedPrecondition(err) {
			err = nil // it has exited meanwhile
		}
		return true, err
	}
	if err := s.withdraw(ctx, c); err != nil {
		return false, fmt.Errorf("start container %s: %w", c.ID, err)
	}
	return false, nil
}

// withdraw makes a start that left nothing behind one that never happened. What
// does run is ended, and booked as what it is by the exit feed. The caller
// knows that no start is under way.
func (s *Service) withdraw(ctx context.Context, c state.Container) error {
	cgroup.Thaw(ctx, cgroup.Dirs(ownCgroup(c)))
	ran := s.Runtime.Kill(ctx, s.handlerOf(c), string(c.ID)) == nil
	if err := s.deleteRuntime(ctx, c); err != nil {
		return err
	}
	if ran {
		ctx, cancel := context.WithTimeout(ctx, killLimit)
		defer cancel()
		return s.awaitEnd(ctx, c.ID)
	}
	_, err := s.Store.MoveContainer(c.ID, state.Withdraw, func(c *state.Container) { c.StartedAt, c.StopSignaled = time.Time{}, time.Time{} })
	s.forgetSignal(c.ID)
	if errdefs.IsFailedPrecondition(err) {
		return nil // it has exited by then, so it did start
	}
	return err
}

// lifeline is the cgroup in which the container is killed for lack of memory, and
// whether what is left in there ends with its first process. A container in its
// pod's sandbox has none of its own.
func (s *Service) lifeline(pod state.Pod, c state.Container) (path string, killAll bool, err error) {
	h, err := s.Runtime.Handler(pod.Handler)
	if err != nil {
		return "", false, err
	}
	if !h.HostProcesses {
		return pod.Cgroup, false, nil
	}
	return ownCgroup(c), sharesPIDs(c), nil
}

// sharesPIDs tells whether the container's first process is not the first of
// its PID namespace, so that its end does not end the others.
func sharesPIDs(c state.Container) bool {
	pid := c.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
	return pid != cri.NamespaceMode_CONTAINER
}
