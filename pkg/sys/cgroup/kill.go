// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Kill sends SIGKILL to every process in the given cgroup directories
// and those below them, and returns when none is left. Directories that do not
// exist are empty. Frozen ones are thawed, for a frozen process of cgroup v1
// does not die. The error is the context's when a process does not die in time
// (uninterruptible in the kernel).
//
// One pass may miss what forks while it runs, so passes are repeated until one
// finds nothing; between passes it waits for deaths, not for time.
func Kill(ctx context.Context, dirs []string) error {
	for left := true; left; {
		left = false
		for _, dir := range dirs {
			found, err := killOne(ctx, dir, dirs)
			if err != nil {
				return fmt.Errorf("kill cgroup %s: %w", dir, err)
			}
			left = left || found
		}
	}
	return nil
}

// killOne makes one pass over dir, one of all that may hold its processes
// frozen, and waits for those it found.
func killOne(ctx context.Context, dir string, all []string) (found bool, err error) {
	// cgroup v2 from Linux 5.14 on: one write, and no fork can slip through.
	killed := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil //nolint:gosec // not a regular file
	err = eachMembers(ctx, dir, sys.OpenProcess, func(processes []member[*sys.Process]) error {
		found = true
		for _, p := range processes {
			if killed || !p.confirmed {
				continue
			}
			if err := p.handle.Signal(unix.SIGKILL); err != nil {
				return fmt.Errorf("kill %d: %w", p.pid, err)
			}
		}
		Thaw(ctx, all)
		for _, p := range processes {
			if !p.confirmed {
				continue // the next pass tells whether it was one of them
			}
			if err := p.handle.AwaitEnd(ctx); err != nil {
				return fmt.Errorf("wait for %d: %w", p.pid, err)
			}
		}
		return nil
	})
	return found, err
}

// maxMembers is how many processes are held at a time, a descriptor each.
const maxMembers = 512

// member is a process found in a cgroup. The handle holds that very process; the
// number may become another's. It is confirmed when the number was still in the
// cgroup after the handle was there: then the handle holds the cgroup's process,
// or one that has ended.
type member[H io.Closer] struct {
	pid       int
	handle    H
	confirmed bool
}

// eachMembers calls do with the processes of dir and the cgroups below it, some
// at a time, and lets them go afterwards. What hold refuses has ended.
func eachMembers[H io.Closer](ctx context.Context, dir string, hold func(pid int) (H, error), do func([]member[H]) error) error {
	pids, err := procsOf(ctx, dir)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(slices.Collect(maps.Keys(pids)), maxMembers) {
		held, err := holdMembers(ctx, dir, some, hold)
		if err == nil && len(held) > 0 {
			err = do(held)
		}
		for _, m := range held {
			m.handle.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func holdMembers[H io.Closer](ctx context.Context, dir string, pids []int, hold func(pid int) (H, error)) (held []member[H], err error) {
	for _, pid := range pids {
		if handle, err := hold(pid); err == nil {
			held = append(held, member[H]{pid: pid, handle: handle})
		}
	}
	if len(held) == 0 {
		return nil, nil
	}
	still, err := procsOf(ctx, dir)
	for i := range held {
		held[i].confirmed = still[held[i].pid]
	}
	return held, err
}

// procsOf is the set of processes in dir and below it.
func procsOf(ctx context.Context, dir string) (map[int]bool, error) {
	pids := map[int]bool{}
	err := Procs(ctx, dir, func(pid int) { pids[pid] = true })
	return pids, err
}

// eachPID reads a list such as cgroup.procs.
func eachPID(raw []byte, do func(pid int)) {
	for line := range bytes.Lines(raw) {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 0 {
			do(pid) // 0 is a process outside our PID namespace
		}
	}
}

// Thaw lets run what the freezer of cgroup v1 holds in the given
// directories and below: a signal, SIGKILL included, reaches a frozen process
// only then. The freezer of cgroup v2 lets the killed go by itself. What cannot
// be thawed stays as it is.
func Thaw(ctx context.Context, dirs []string) {
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, freezerState)); err != nil {
			continue
		}
		_ = walkDirs(ctx, dir, dirVisit{enter: func(dir int) error {
			state, err := sys.ReadSmallAt(dir, freezerState, nil)
			if err == nil && !bytes.HasPrefix(state, []byte(thawed)) {
				_ = sys.WriteAt(dir, freezerState, thawed)
			}
			return nil
		}})
	}
}

const (
	freezerState = "freezer.state"
	thawed       = "THAWED"
)
