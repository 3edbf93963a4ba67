// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
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
	stdout, stderr := &capture{limit: execOutputLimit}, &capture{limit: execOutputLimit}
	code, err := s.Exec(ctx, id, ExecIO{Command: cmd, Stdout: stdout, Stderr: stderr})
	return ExecResult{Stdout: stdout.bytes(), Stderr: stderr.bytes(), ExitCode: code}, err
}

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

// ExecIO is a command and the streams it talks to; nil streams are /dev/null.
type ExecIO struct {
	Command []string
	TTY     bool // one terminal in place of three streams; Stderr is not used
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan Size
}

// Exec runs a command in a running container until it ends, and returns its
// exit code. When ctx ends first, the command and everything it started is
// killed. ErrDataLoss: the command ended, and what it left running writes on.
// ErrInvalidArgument: the command cannot be executed as it stands.
func (s *Service) Exec(ctx context.Context, id state.ContainerID, e ExecIO) (int32, error) {
	c, pod, err := s.running(id)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	var code int32
	err = state.Alone(ctx, s.Ops, "exec "+string(id), func(ctx context.Context) error {
		code, err = s.exec(ctx, c, pod.Handler, e)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return code, nil
}

func (s *Service) exec(ctx context.Context, c state.Container, handler string, e ExecIO) (int32, error) {
	process, err := s.execProcess(c.ID, e)
	if err != nil {
		return 0, err
	}
	streams, err := openStreams(e)
	if err != nil {
		return 0, err
	}
	defer streams.close()
	group, endGroup, err := s.makeExecGroup(c)
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
		Stdin: streams.child[0], Stdout: streams.child[1], Stderr: streams.child[2],
	})
	if err != nil {
		return 0, s.endExec(ctx, group, err)
	}
	s.moveExecScore(ctx, c.ID, group)
	if e.TTY {
		streams.terminal(p.Console, e)
		go resize(streams.stop, p.Console, e.Resize)
	}
	streams.started()
	if err := state.Point(ctx, "command runs"); err != nil {
		return 0, s.endExec(ctx, group, err)
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return 0, s.endExec(ctx, group, err)
	}
	owed, leave := s.whileOwed(ctx, c.ID)
	defer leave()
	if err := streams.drain(owed, execDrainLimit); err != nil {
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
func (s *Service) execProcess(id state.ContainerID, e ExecIO) (*specs.Process, error) {
	spec, err := s.Runtime.Spec(string(id))
	if err != nil {
		return nil, err
	}
	return oci.Exec(spec, e.Command, e.TTY)
}

// holdProfile puts the default AppArmor profile back that somebody unloaded: no
// program can be executed under one that the kernel does not hold. Where that
// does not work, the runtime says so of the containers that have it.
func (s *Service) holdProfile() { s.DefaultProfile() }

// endExec kills what a command started whose caller gave up, or that went
// wrong half way, and returns why.
func (s *Service) endExec(ctx context.Context, group cgroup.Sub, cause error) error {
	if ctx.Err() != nil {
		cause = context.Cause(ctx)
	}
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execKillLimit)
	defer cancel()
	if err := group.Kill(killCtx); err != nil {
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

func resize(stop <-chan struct{}, console *os.File, sizes <-chan Size) {
	if console == nil || sizes == nil {
		return
	}
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = sys.ResizeTerminal(console, size.Width, size.Height) // a terminal that is gone needs no size
		case <-stop:
			return
		}
	}
}

// capture keeps the first limit bytes written to it and swallows the rest.
type capture struct {
	mu    sync.Mutex // guards data: a drain may be cut off while a writer is stuck
	data  []byte
	limit int
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := min(len(p), c.limit-len(c.data))
	c.data = append(c.data, p[:keep]...)
	return len(p), nil
}

func (c *capture) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data[:len(c.data):len(c.data)]
}
