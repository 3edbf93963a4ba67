// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// nestDepth is more levels than a walk keeps open, with names that together are longer than PATH_MAX.
const nestDepth = 80

func nestName(i int) string { return "cri-" + strconv.Itoa(i) + strings.Repeat("x", 60) }

// nestCgroups makes cgroups inside each other and returns a descriptor of the deepest.
func nestCgroups(t *testing.T, dir string) int {
	t.Helper()
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	succeed(t, err)
	t.Cleanup(func() { unix.Close(at) })
	for i := range nestDepth {
		above, name := at, nestName(i)
		succeed(t, unix.Mkdirat(above, name, 0o755))
		t.Cleanup(func() { _ = unix.Unlinkat(above, name, unix.AT_REMOVEDIR) })
		below, err := unix.Openat(above, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		succeed(t, err)
		t.Cleanup(func() { unix.Close(below) })
		at = below
	}
	return at
}

func writeIn(dir int, name, text string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// A container may nest cgroups deeper than a path reaches: what is in there is counted, thawed, killed and removed.
func TestNestedCgroupsEnd(t *testing.T) {
	name := "cri-test-nest-" + strconv.Itoa(os.Getpid())
	dirs := testCgroup(t, name)
	var procs []*exec.Cmd
	for _, dir := range dirs {
		deepest, inside := nestCgroups(t, dir), sleeper(t)
		succeed(t, writeIn(deepest, "cgroup.procs", strconv.Itoa(inside.Process.Pid)))
		found := map[int]bool{}
		if err := cgroup.Procs(t.Context(), dir, func(pid int) { found[pid] = true }); err != nil || !found[inside.Process.Pid] {
			t.Errorf("%s holds %v, %v; want %d", dir, found, err, inside.Process.Pid)
		}
		if filepath.Base(filepath.Dir(dir)) == "freezer" {
			succeed(t, writeIn(deepest, "freezer.state", "FROZEN"))
			t.Cleanup(func() { _ = writeIn(deepest, "freezer.state", "THAWED") })
		}
		procs = append(procs, inside)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := cgroup.End(ctx, "/"+name); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range procs {
		killed(t, cmd)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
}

// A walk through however many cgroups ends with the context.
func TestCgroupWalkEndsWithContext(t *testing.T) {
	dirs := testCgroup(t, "cri-test-walk-"+strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if err := cgroup.Procs(ctx, dirs[0], func(int) {}); !errors.Is(err, why) {
		t.Errorf("%v, want the context's cause", err)
	}
}

// In a threaded cgroup (v2) the list of processes cannot be read: theirs are killed as well.
func TestThreadedCgroupIsKilled(t *testing.T) {
	dir := unifiedOf(testCgroup(t, "cri-test-threads-"+strconv.Itoa(os.Getpid())))
	if dir == "" {
		t.Skip("needs a mounted cgroup v2")
	}
	below := filepath.Join(dir, "below")
	succeed(t, os.Mkdir(below, 0o755))
	outside, inside := sleeper(t, dir), sleeper(t, dir)
	succeed(t, os.WriteFile(filepath.Join(below, "cgroup.type"), []byte("threaded"), 0o600))
	succeed(t, os.WriteFile(filepath.Join(below, "cgroup.threads"), []byte(strconv.Itoa(inside.Process.Pid)), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, one := range []string{below, dir} {
		if err := cgroup.Kill(ctx, []string{one}); err != nil {
			t.Error(err)
		}
	}
	killed(t, inside)
	killed(t, outside)
}

func unifiedOf(dirs []string) string {
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err == nil {
			return dir
		}
	}
	return ""
}

func succeed(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
