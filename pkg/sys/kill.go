// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// KillCgroups sends SIGKILL to every process in the given cgroup directories
// and those below them, and returns when none is left. Directories that do not
// exist are empty. The error is the context's when a process does not die in
// time (uninterruptible in the kernel).
//
// One pass may miss what forks while it runs, so passes are repeated until one
// finds nothing; between passes it waits for deaths, not for time.
func KillCgroups(ctx context.Context, dirs []string) error {
	for _, dir := range dirs {
		for {
			left, err := killCgroup(ctx, dir)
			if err != nil {
				return fmt.Errorf("kill cgroup %s: %w", dir, err)
			}
			if left == 0 {
				break
			}
		}
	}
	return nil
}

// killCgroup makes one pass over dir and waits for the processes it found.
// Zombies show in cgroup v1's lists until they are reaped: they do not count.
func killCgroup(ctx context.Context, dir string) (found int, err error) {
	// cgroup v2 from Linux 5.14 on: one write, and no fork can slip through.
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) //nolint:gosec // not a regular file
	pids, err := cgroupProcs(dir)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		killed, err := killAndWait(ctx, pid)
		if err != nil {
			return found, err
		}
		if killed {
			found++
		}
	}
	return found, nil
}

func cgroupProcs(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		raw, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		for line := range bytes.Lines(raw) {
			if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 0 {
				pids = append(pids, pid) // 0 is a process outside our PID namespace
			}
		}
		return nil
	})
	return pids, err
}

// killAndWait reports whether pid was there to be killed; it has ended then.
func killAndWait(ctx context.Context, pid int) (bool, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil // ended and reaped
	}
	defer unix.Close(fd)
	if ended, _ := PidfdEnded(fd); ended {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("kill %d: %w", pid, err)
	}
	return true, AwaitPidfd(ctx, fd)
}

// AwaitPidfd returns when the process behind fd has ended, or with the
// context's error at its deadline. It blocks a thread; the cancelling of a
// context without a deadline is noticed only after the end of the process.
func AwaitPidfd(ctx context.Context, fd int) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		timeout := -1
		if at, ok := ctx.Deadline(); ok {
			timeout = max(1, int(time.Until(at)/time.Millisecond)+1)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll pidfd: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}
