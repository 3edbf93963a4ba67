// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Sub is a cgroup made below a container's own, to find everything one
// exec session started again.
type Sub struct {
	Dir  string // on the host
	Flag string // as the runtime's exec --cgroup wants it
}

// MakeSub makes the cgroup name below cgroupsPath: on the unified
// hierarchy, or on one v1 controller that has no limits of its own to miss.
func MakeSub(cgroupsPath, name string) (Sub, error) {
	root, controller, ok := subRoot()
	if !ok {
		return Sub{}, errors.New("make exec cgroup: neither cgroup v2 nor the freezer or pids controller is mounted")
	}
	sub := Sub{Dir: filepath.Join(root, Path(cgroupsPath), name), Flag: controller + "/" + name}
	if err := unix.Mkdir(sub.Dir, 0o755); err != nil {
		return Sub{}, fmt.Errorf("make exec cgroup: %w", &fs.PathError{Op: "mkdir", Path: sub.Dir, Err: err})
	}
	return sub, nil
}

// subRoot is the hierarchy for sub-cgroups, and how the runtime's flag
// names it.
func subRoot() (root, flag string, ok bool) {
	if unified, err := sys.CgroupUnified(); err == nil && unified {
		return sys.CgroupRoot, "", true
	}
	var st unix.Statfs_t
	for _, controller := range []string{"freezer", "pids"} {
		root := filepath.Join(sys.CgroupRoot, controller)
		if unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP_SUPER_MAGIC {
			return root, controller + ":", true
		}
	}
	return "", "", false
}

// Kill ends every process in the cgroup and waits for that. The zero Sub is
// empty.
func (s Sub) Kill(ctx context.Context) error {
	if s.Dir == "" {
		return nil
	}
	return Kill(ctx, []string{s.Dir})
}

// Remove removes the cgroup if nothing is left in it. What an exec session left
// running stays, and goes with the container.
func (s Sub) Remove() error {
	if err := unix.Rmdir(s.Dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
		return &fs.PathError{Op: "rmdir", Path: s.Dir, Err: err}
	}
	return nil
}

// RemoveEmptySubs removes what MakeSub made, of the names that are
// given up, where nothing lives any more.
func RemoveEmptySubs(cgroupsPath string, givenUp func(name string) bool) {
	root, _, ok := subRoot()
	if !ok {
		return
	}
	dir := filepath.Join(root, Path(cgroupsPath))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // there is no such cgroup
	}
	for _, e := range entries {
		if e.IsDir() && givenUp(e.Name()) {
			_ = unix.Rmdir(filepath.Join(dir, e.Name())) // busy: it is not empty
		}
	}
}
