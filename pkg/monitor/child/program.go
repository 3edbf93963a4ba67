// SPDX-License-Identifier: Apache-2.0

package child

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Program is one run of an argv: the runtime, not the container.
type Program struct {
	Argv, Env []string // Argv[0] is an absolute path
	Dir       string
	Files     [3]int // its stdio; they stay the caller's
	// OOMScoreAdj is what the program begins with, "" for what the reaper gives all. A runtime that gives none to what it
	// starts, as crun to a command, hands its own down.
	OOMScoreAdj string
	PidFile     string // for Start: of the process that is wanted; "": that is the program itself
}

// Process is what a program left, or the program itself.
type Process struct {
	PID   int
	Since time.Time // when the program was started
}

// Pidfd returns a pidfd of p, -1 when it has ended. While p was not reaped its
// number is its own; the reaper notes whom it reaps first, so a descriptor that
// was there before such a note is p's.
func (r *Reaper) Pidfd(p Process) int {
	fd, err := sys.PidfdOpen(p.PID)
	if err != nil {
		return -1
	}
	if r.Reaped(p.PID, p.Since) {
		unix.Close(fd)
		return -1
	}
	return fd
}

// Kill ends a process that has no owner.
func (r *Reaper) Kill(p Process) {
	if fd := r.Pidfd(p); fd >= 0 {
		_ = sys.PidfdSignal(fd, sys.SIGKILL)
		unix.Close(fd)
	}
}

// killLeft kills what a program that failed, or was killed, had started by then.
// It fell to us with the program's end; a number that is no child of ours is
// another process's by now.
func (r *Reaper) killLeft(pidFile string, since time.Time) {
	pid, err := ReadPID(pidFile)
	if err != nil {
		return
	}
	fd := r.Pidfd(Process{PID: pid, Since: since})
	if fd < 0 {
		return
	}
	defer unix.Close(fd)
	if st, err := sys.ReadProcStat(pid); err == nil && st.PPID == os.Getpid() {
		_ = sys.PidfdSignal(fd, sys.SIGKILL)
	}
}

// Start starts the program and waits for it. It returns the process in the pid
// file, or a *wire.LaunchError. When ctx ends first the program is killed. Without
// a pid file it returns the program, and does not wait. The caller has said Expect.
func (r *Reaper) Start(ctx context.Context, p *Program) (Process, error) {
	started := Process{Since: time.Now()}
	if p.PidFile == "" {
		pid, pidfd, err := r.fork(p, 0)
		if err != nil {
			return Process{}, err
		}
		unix.Close(pidfd)
		started.PID = pid
		return started, nil
	}
	_ = os.Remove(p.PidFile) // an old one must not be taken for the program's
	err := r.Execute(ctx, p)
	if err != nil {
		r.killLeft(p.PidFile, started.Since)
		return Process{}, err
	}
	started.PID, err = ReadPID(p.PidFile)
	return started, err
}

// Execute runs the program to its end. The error is a *wire.LaunchError when it
// failed. When ctx ends first it is killed. The caller has said Expect.
func (r *Reaper) Execute(ctx context.Context, p *Program) error {
	began := time.Now()
	// A half-done launch is not to go on when nobody can take over what comes of it. The signal comes with the end of
	// the thread that forked, which the Go runtime keeps as long as the process; what the program itself starts does not
	// inherit it.
	pid, pidfd, err := r.fork(p, unix.SIGKILL)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	ended := make(chan unix.WaitStatus, 1)
	r.Await(pid, began, func(ws unix.WaitStatus) { ended <- ws })
	var status unix.WaitStatus
	select {
	case status = <-ended:
	case <-ctx.Done():
		_ = sys.PidfdSignal(pidfd, sys.SIGKILL)
		status = <-ended
	}
	if code, _ := ExitCode(status); code != 0 {
		return &wire.LaunchError{ExitCode: code}
	}
	return nil
}

// fork starts the program in a session of its own; with us it gets the signal, if
// that is one.
func (r *Reaper) fork(p *Program, withUs syscall.Signal) (pid, pidfd int, err error) {
	if len(p.Argv) == 0 || !filepath.IsAbs(p.Argv[0]) {
		return 0, -1, wire.InvalidArgument(errors.New("launch: argv has no absolute path"))
	}
	attr := &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd, Pdeathsig: withUs}
	pidfd = -1
	pid, err = syscall.ForkExec(p.Argv[0], p.Argv, &syscall.ProcAttr{
		Dir: p.Dir, Env: p.Env,
		Files: []uintptr{uintptr(p.Files[0]), uintptr(p.Files[1]), uintptr(p.Files[2])},
		Sys:   attr,
	})
	if err != nil {
		if pidfd >= 0 { // made before the exec failed
			unix.Close(pidfd)
		}
		return 0, -1, &wire.LaunchError{ExitCode: 127, Stderr: fmt.Sprintf("execute %s: %v", p.Argv[0], err)}
	}
	if score := cmp.Or(p.OOMScoreAdj, r.oomAdj); score != "" {
		// Ours is low; what starts containers is not to hand that down. It needs a while before it forks itself.
		_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(score), 0) //nolint:gosec // procfs
	}
	return pid, pidfd, nil
}

// ReadPID reads a pid file.
func ReadPID(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("read pid file %s: no pid in it", path)
	}
	return pid, nil
}

// ExitCode translates a wait status as shells do.
func ExitCode(ws unix.WaitStatus) (code, sig int) {
	if ws.Signaled() {
		return 128 + int(ws.Signal()), int(ws.Signal())
	}
	return ws.ExitStatus(), 0
}
