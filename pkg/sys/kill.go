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

// promptly is how long the end of a killed process may take before waiting for
// it is made interruptible, which costs a descriptor.
const promptly = 100 * time.Millisecond

// AwaitPidfd returns when the process behind fd has ended, or with the
// context's error. It blocks a thread.
func AwaitPidfd(ctx context.Context, fd int) error {
	ended, err := pollEnd([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(promptly/time.Millisecond))
	if ended || err != nil {
		return err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("wait for process: make eventfd: %w", err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(woken)
	})
	defer func() {
		if !stop() {
			<-woken // it must not write to a descriptor that is somebody else's by then
		}
	}()
	ended, err = pollEnd([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}, -1)
	if !ended && err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// pollEnd tells whether the first descriptor is readable after a poll that lasts
// until any is or the timeout, in milliseconds, is over.
func pollEnd(fds []unix.PollFd, timeout int) (bool, error) {
	for {
		_, err := unix.Poll(fds, timeout)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("poll pidfd: %w", err)
		}
		return fds[0].Revents != 0, nil
	}
}
