// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

const (
	// execOutputLimit is kept of stdout and of stderr of an ExecSync, each; the
	// rest is read and thrown away (CVE-2022-1708, and the CRI client's own limit).
	execOutputLimit = 16 << 20
	// execDrainLimit is how long the end of a command's output is waited for once
	// the command has ended: grandchildren may hold the pipes for as long as they
	// live.
	execDrainLimit = 2 * time.Second
	// execKillLimit is how long a killed command may take to be gone.
	execKillLimit = 10 * time.Second
)

// ExecResult is what a command left.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int32
}

// ExecSync runs a command in a running container and waits for it. With a
// timeout above zero the command and everything it started is killed when that
// is over, and the error is DeadlineExceeded. The command is killed as well
// when the caller goes away.
func (s *Service) ExecSync(ctx context.Context, id state.ContainerID, cmd []string, timeout time.Duration) (ExecResult, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout,
			fmt.Errorf("not ended after %s: %w", timeout, context.DeadlineExceeded))
		defer cancel()
	}
	stdout, stderr := &stdio.Capture{Limit: execOutputLimit}, &stdio.Capture{Limit: execOutputLimit}
	code, err := s.Exec(ctx, id, cmd, stdio.Client{Stdout: stdout, Stderr: stderr})
	return ExecResult{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: code}, err
}

// Exec runs a command in a running container until it ends, and returns its
// exit code. When ctx ends first, the command and everything it started is
// killed. ErrDataLoss: the command ended, and what it left running writes on.
// ErrInvalidArgument: the command cannot be executed as it stands.
func (s *Service) Exec(ctx context.Context, id state.ContainerID, cmd []string, client stdio.Client) (int32, error) {
	c, pod, err := s.running(id)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	var code int32
	err = state.Alone(ctx, s.Ops, "exec "+string(id), func(ctx context.Context) error {
		code, err = s.exec(ctx, c, pod.Handler, command{cmd, client})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return code, nil
}

// command is what an exec session runs, and for whom.
type command struct {
	args   []string
	client stdio.Client
}

func (s *Service) exec(ctx context.Context, c state.Container, handler string, cmd command) (int32, error) {
	process, err := s.execProcess(c.ID, cmd)
	if err != nil {
		return 0, err
	}
	pipes, err := stdio.Open(cmd.client)
	if err != nil {
		return 0, err
	}
	defer pipes.Close()
	group, endGroup, err := s.execGroup(c, handler)
	if err != nil {
		return 0, err
	}
	defer endGroup()
	if err := state.Point(ctx, "exec cgroup is made"); err != nil {
		return 0, err
	}
	s.holdProfile()
	p, err := s.Runtime.Exec(ctx, runc.Exec{
		Handler: handler, ID: string(c.ID), Process: process, Cgroup: group.Flag,
		Stdin: pipes.Child[0], Stdout: pipes.Child[1], Stderr: pipes.Child[2],
	})
	if err != nil {
		return 0, s.endExec(ctx, group, p, err)
	}
	s.moveExecScore(ctx, c.ID, group)
	if cmd.client.TTY {
		pipes.Terminal(p.Console, cmd.client)
	}
	pipes.Started()
	if err := state.Point(ctx, "command runs"); err != nil {
		return 0, s.endExec(ctx, group, p, err)
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return 0, s.endExec(ctx, group, p, err)
	}
	owed, leave := stdio.WhileOwed(ctx, func(ctx context.Context) error { return s.awaitEnd(ctx, c.ID) })
	defer leave()
	if err := pipes.Drain(owed, execDrainLimit); err != nil {
		return 0, err
	}
	if err := state.Point(ctx, "command has ended"); err != nil {
		return 0, err
	}
	code, _, _ := exitStatus(exit)
	return code, nil
}

// DefaultProfile is the AppArmor profile of containers that ask for none, "" where
// that is no confinement.
func (s *Service) DefaultProfile() string {
	if !s.Host.AppArmor || s.Lookup.AppArmorDefault == nil {
		return ""
	}
	name, _ := s.Lookup.AppArmorDefault(false)
	return name
}

// execProcess is the command as the container's runtime gets it: with the
// user, rights and environment of the container's own process.
func (s *Service) execProcess(id state.ContainerID, cmd command) (*specs.Process, error) {
	spec, err := s.Runtime.Spec(string(id))
	if err != nil {
		return nil, err
	}
	return oci.Exec(spec, cmd.args, cmd.client.TTY)
}

// holdProfile puts the default AppArmor profile back if it was unloaded: no
// program can be executed under one that the kernel does not hold. Where that
// does not work, the runtime says so of the containers that have it.
func (s *Service) holdProfile() { s.DefaultProfile() }

// endExec kills what a command started whose caller gave up, or that went
// wrong half way, and returns why.
func (s *Service) endExec(ctx context.Context, group cgroup.Sub, p *runc.Command, cause error) error {
	if ctx.Err() != nil {
		cause = context.Cause(ctx)
	}
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execKillLimit)
	defer cancel()
	err := group.Kill(killCtx)
	if p != nil {
		err = errors.Join(err, p.End(killCtx))
	}
	if err != nil {
		return fmt.Errorf("%w; kill: %w", cause, err)
	}
	return cause
}

// running returns a container that can be executed in, and its pod.
func (s *Service) running(id state.ContainerID) (state.Container, state.Pod, error) {
	c, err := s.Store.Container(string(id))
	if err != nil {
		return c, state.Pod{}, err
	}
	if c.Phase != state.Running {
		return c, state.Pod{}, fmt.Errorf("container %s is %s, not running: %w", c.ID, c.Phase, errdefs.ErrFailedPrecondition)
	}
	pod, err := s.Store.Pod(string(c.Pod))
	return c, pod, err
}
