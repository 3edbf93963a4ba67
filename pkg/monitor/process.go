// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Exec describes a process to run beside a container: argv starts it and exits
// 0, leaving its pid in PidFile; without PidFile argv is the process itself.
type Exec struct {
	Argv    []string // as in Launch
	Env     []string
	Dir     string
	PidFile string
	// Terminal: stdio is a pty, whose master is Process.Console; "{console}" in Argv becomes the console socket's path.
	Terminal bool
	// OOMScoreAdj is what the process begins with unless argv gives it one; nil is the daemon's.
	OOMScoreAdj *int
	// Stdio of the process; nil is /dev/null. They stay the caller's, who closes them after Exec.
	Stdin, Stdout, Stderr *os.File
}

// Process is a started exec. It is killed when the connection to the monitor
// breaks, for then its exit could not be told.
type Process struct {
	Launched
	Console *os.File // pty master, the caller's; nil without a terminal

	done chan struct{}

	mu    sync.Mutex // guards what follows
	pidfd int        // -1: none
	exit  Exit
	err   error
}

// Exec starts a process. The error is a *LaunchError when argv failed. When ctx
// ends first, argv is killed, or the process if it was started meanwhile.
func (c *Client) Exec(ctx context.Context, e Exec) (*Process, error) {
	p := &wire.Packet{Op: wire.OpExec, Exec: &wire.ExecRequest{Argv: e.Argv, Env: e.Env, Dir: e.Dir, PidFile: e.PidFile, Terminal: e.Terminal, OOMScoreAdj: e.OOMScoreAdj}}
	var fds []int
	defer func() { wire.CloseFDs(fds) }()
	for _, f := range []struct {
		kind wire.FDKind
		file *os.File
	}{{wire.Stdin, e.Stdin}, {wire.Stdout, e.Stdout}, {wire.Stderr, e.Stderr}} {
		if f.file == nil {
			continue
		}
		fd, err := duplicate(f.file)
		if err != nil {
			return nil, fmt.Errorf("exec: %w", err)
		}
		p.FDs, fds = append(p.FDs, f.kind), append(fds, fd)
	}
	l, err := c.current()
	if err != nil {
		return nil, err
	}
	r, got, err := l.call(ctx, p, fds)
	if err != nil {
		return nil, err
	}
	return newProcess(l, r, got)
}

func newProcess(l *link, r *wire.Packet, fds []int) (*Process, error) {
	proc := &Process{done: make(chan struct{}), pidfd: -1}
	for i, kind := range r.FDs {
		if i >= len(fds) {
			break
		}
		switch kind {
		case wire.Pidfd:
			proc.pidfd = fds[i]
		case wire.TTY:
			_ = unix.SetNonblock(fds[i], true) // so that the Go runtime polls it
			proc.Console = os.NewFile(uintptr(fds[i]), "console")
		default:
			unix.Close(fds[i])
		}
	}
	if len(r.Running) == 1 {
		proc.Launched = r.Running[0].Launched
	}
	l.onSession(r.Session, proc.end)
	return proc, nil
}

// duplicate does not use File.Fd, which would change the file's mode.
func duplicate(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup, dupErr := -1, error(nil)
	err = raw.Control(func(fd uintptr) { dup, dupErr = sys.Duplicate(int(fd)) })
	return dup, errors.Join(err, dupErr)
}

func (p *Process) end(e *wire.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e == nil || e.Exit == nil {
		p.err = wire.Unavailable(errors.New("monitor: connection lost while the process ran"))
		p.exit = Exit{Pid: p.Pid, Code: 255, Unknown: true}
		if p.pidfd >= 0 { // a dead monitor could not do it
			_ = killPidfd(p.pidfd)
		}
	} else {
		p.exit = *e.Exit
	}
	if p.exit.Unknown && p.err == nil {
		p.err = fmt.Errorf("wait for process %d: it has ended, and another process has taken its exit code", p.Pid)
	}
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
	close(p.done)
}

// Wait returns how the process ended, with an error where nobody can tell. It may
// be called more than once.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exit, p.err
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// Signal sends sig; NotFound once the process has ended.
func (p *Process) Signal(sig int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return wire.NotFound(errors.New("signal process: it has ended"))
	}
	err := sys.PidfdSignal(p.pidfd, sig)
	if errors.Is(err, unix.ESRCH) {
		return wire.NotFound(err)
	}
	return err
}
