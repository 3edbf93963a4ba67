// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SIGKILL ends a process; the number is the same on every architecture.
const SIGKILL = int(unix.SIGKILL)

// CgroupDirs returns the host directories of an OCI cgroupsPath: one on a
// unified hierarchy, one per mounted controller on cgroup v1. Both forms of the
// path are understood, "/parent/name" and systemd's "slice:prefix:name".
// Directories are named whether they exist or not.
func CgroupDirs(cgroupsPath string) []string {
	if cgroupsPath == "" {
		return nil
	}
	relative := cgroupRelative(cgroupsPath)
	var dirs []string
	for _, root := range cgroupRoots() {
		dirs = append(dirs, filepath.Join(root, relative))
	}
	return dirs
}

// cgroupRelative turns an OCI cgroupsPath into a path below a hierarchy.
func cgroupRelative(cgroupsPath string) string {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 {
		return filepath.Join("/", cgroupsPath)
	}
	slice, prefix, name := parts[0], parts[1], parts[2]
	if slice == "" {
		slice = "system.slice"
	}
	unit := name
	if !strings.HasSuffix(name, ".slice") {
		unit = prefix + "-" + name + ".scope"
	}
	return filepath.Join("/", expandSlice(slice), unit)
}

// expandSlice spells out where systemd puts a slice: a-b.slice is below
// a.slice (systemd.slice(5)).
func expandSlice(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" || name == "" {
		return ""
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(name, "-") {
		path = filepath.Join(path, prefix+part+".slice")
		prefix += part + "-"
	}
	return path
}

// CgroupIsOf tells whether an OCI cgroupsPath can be the cgroup of the container
// id alone: absolute, or systemd's form of a scope, and with the id in its last
// element. What is in any other cgroup may be somebody else's.
func CgroupIsOf(cgroupsPath, id string) bool {
	if id == "" {
		return false
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) == 3 {
		return strings.Contains(parts[2], id) && !strings.HasSuffix(parts[2], ".slice") && !strings.Contains(cgroupsPath, "/")
	}
	return filepath.IsAbs(cgroupsPath) && filepath.Clean(cgroupsPath) == cgroupsPath && strings.Contains(filepath.Base(cgroupsPath), id)
}

// cgroupRoots lists the hierarchies that are mounted below /sys/fs/cgroup.
func cgroupRoots() []string {
	var st unix.Statfs_t
	if unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var roots []string
	for _, e := range entries {
		path := filepath.Join(cgroupRoot, e.Name())
		if e.Type()&fs.ModeSymlink != 0 || unix.Statfs(path, &st) != nil {
			continue
		}
		if st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC {
			roots = append(roots, path)
		}
	}
	return roots
}

// endPasses bounds how often EndCgroup kills what came into the cgroup while it
// was being removed.
const endPasses = 5

// EndCgroup kills every process in the cgroup of an OCI cgroupsPath and removes
// it, and returns when it is gone.
func EndCgroup(ctx context.Context, cgroupsPath string) error {
	dirs := CgroupDirs(cgroupsPath)
	var err error
	for range endPasses {
		if err := KillCgroups(ctx, dirs); err != nil {
			return err
		}
		if err = RemoveCgroup(ctx, cgroupsPath); !errors.Is(err, unix.EBUSY) {
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

// RemoveCgroup removes the cgroup of an OCI cgroupsPath, with every cgroup the
// container made below it. A cgroup that still has processes is ErrExist-like
// EBUSY: kill first. A missing one is fine.
func RemoveCgroup(ctx context.Context, cgroupsPath string) error {
	var errs []error
	for _, dir := range CgroupDirs(cgroupsPath) {
		if err := removeCgroupDir(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

func removeCgroupDir(ctx context.Context, dir string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	err = walkCgroups(ctx, dir, cgroupVisit{leave: func(above int, name string) error {
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

// ProcessState describes what a process is doing for an error text: "in
// uninterruptible sleep (D)", "a zombie (Z)", "gone", …
func ProcessState(pid int) string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "gone"
	}
	// The command name may hold spaces and parentheses: the state follows the last one.
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	state, _, _ := strings.Cut(rest, " ")
	names := map[string]string{"D": "in uninterruptible sleep (D)", "Z": "a zombie (Z)", "T": "stopped (T)", "S": "sleeping (S)", "R": "running (R)"}
	if name, ok := names[state]; ok {
		return name
	}
	return "in state " + state
}

// BootID is the kernel's id of this boot.
func BootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

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
