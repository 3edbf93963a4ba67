// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SubCgroup is a cgroup made below a container's own, to find everything one
// exec session started again.
type SubCgroup struct {
	Dir  string // on the host
	Flag string // as the runtime's exec --cgroup wants it
}

// MakeSubCgroup makes the cgroup name below cgroupsPath: on the unified
// hierarchy, or on one v1 controller that has no limits of its own to miss.
func MakeSubCgroup(cgroupsPath, name string) (SubCgroup, error) {
	root, controller, ok := subCgroupRoot()
	if !ok {
		return SubCgroup{}, errors.New("make exec cgroup: neither cgroup v2 nor the freezer or pids controller is mounted")
	}
	sub := SubCgroup{Dir: filepath.Join(root, cgroupRelative(cgroupsPath), name), Flag: controller + "/" + name}
	if err := unix.Mkdir(sub.Dir, 0o755); err != nil {
		return SubCgroup{}, fmt.Errorf("make exec cgroup: %w", &fs.PathError{Op: "mkdir", Path: sub.Dir, Err: err})
	}
	return sub, nil
}

// subCgroupRoot is the hierarchy for sub-cgroups, and how the runtime's flag
// names it.
func subCgroupRoot() (root, flag string, ok bool) {
	var st unix.Statfs_t
	if unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return cgroupRoot, "", true
	}
	for _, controller := range []string{"freezer", "pids"} {
		root := filepath.Join(cgroupRoot, controller)
		if unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP_SUPER_MAGIC {
			return root, controller + ":", true
		}
	}
	return "", "", false
}

// Kill ends every process in the cgroup and waits for that.
func (s SubCgroup) Kill(ctx context.Context) error { return KillCgroups(ctx, []string{s.Dir}) }

// Remove removes the cgroup if nothing is left in it. What an exec session left
// running stays, and goes with the container.
func (s SubCgroup) Remove() error {
	if err := unix.Rmdir(s.Dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
		return &fs.PathError{Op: "rmdir", Path: s.Dir, Err: err}
	}
	return nil
}

// RemoveEmptySubCgroups removes what MakeSubCgroup made, of the names that are
// given up, where nothing lives any more.
func RemoveEmptySubCgroups(cgroupsPath string, givenUp func(name string) bool) {
	root, _, ok := subCgroupRoot()
	if !ok {
		return
	}
	dir := filepath.Join(root, cgroupRelative(cgroupsPath))
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
