// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endPasses bounds how often End kills what came into the cgroup while it
// was being removed.
const endPasses = 5

// End kills every process in the cgroup of an OCI cgroupsPath and removes
// it, and returns when it is gone.
func End(ctx context.Context, cgroupsPath string) error {
	dirs := Dirs(cgroupsPath)
	var err error
	for range endPasses {
		if err := Kill(ctx, dirs); err != nil {
			return err
		}
		if err = Remove(ctx, cgroupsPath); !errors.Is(err, unix.EBUSY) {
			return err
		}
		for _, dir := range dirs {
			if err := awaitUnpopulated(ctx, dir); err != nil {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
	}
	return err
}

// awaitUnpopulated returns when the kernel calls the cgroup v2 directory dir
// unpopulated, which may be a moment after its last process has ended. cgroup v1
// says nothing of that kind.
func awaitUnpopulated(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return nil //nolint:nilerr // it is gone, or of cgroup v1
	}
	defer f.Close()
	for ctx.Err() == nil {
		raw := make([]byte, 256)
		n, err := f.ReadAt(raw, 0)
		if n == 0 && err != nil || strings.Contains(string(raw[:n]), "populated 0") {
			return nil //nolint:nilerr // it is gone
		}
		p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(p, int(eventsPatience/time.Millisecond)); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll cgroup.events: %w", err)
		}
	}
	return context.Cause(ctx)
}

// eventsPatience bounds one wait for a change of cgroup.events, which no context
// ends.
const eventsPatience = 100 * time.Millisecond

// Remove removes the cgroup of an OCI cgroupsPath, with every cgroup the
// container made below it. The error is EBUSY for a cgroup that still has
// processes: kill first. A missing one is fine.
func Remove(ctx context.Context, cgroupsPath string) error {
	var errs []error
	for _, dir := range Dirs(cgroupsPath) {
		if err := removeDir(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

func removeDir(ctx context.Context, dir string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	err = walkDirs(ctx, dir, dirVisit{leave: func(above int, name string) error {
		return ignoreGone("rmdir", name, unix.Unlinkat(above, name, unix.AT_REMOVEDIR))
	}})
	if err != nil {
		return err
	}
	return ignoreGone("rmdir", dir, unix.Rmdir(dir))
}

func ignoreGone(op, path string, err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
