// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// testCgroup makes a cgroup in every hierarchy a process can join unconfigured.
func testCgroup(t *testing.T, name string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for cgroups")
	}
	var dirs []string
	for _, dir := range cgroup.Dirs("/" + name) {
		if filepath.Base(filepath.Dir(dir)) == "cpuset" || os.MkdirAll(dir, 0o755) != nil {
			continue
		}
		dirs = append(dirs, dir)
	}
	t.Cleanup(func() {
		if err := cgroup.Remove(context.Background(), "/"+name); err != nil {
			t.Error(err)
		}
	})
	return dirs
}

// sleeper is a process in the given cgroups, for the length of the test.
func sleeper(t *testing.T, dirs ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, dir := range dirs {
		join(t, dir, cmd.Process.Pid)
	}
	return cmd
}

func join(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// killed checks that cmd ended by SIGKILL.
func killed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	_ = cmd.Wait()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Errorf("ended with %v", cmd.ProcessState)
	}
}

func TestKillCgroups(t *testing.T) {
	dirs := testCgroup(t, "cri-test-kill-"+strconv.Itoa(os.Getpid()))
	var procs []*exec.Cmd
	for range 5 {
		procs = append(procs, sleeper(t, dirs...))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := cgroup.Kill(ctx, append(dirs, "/sys/fs/cgroup/nonexistent")); err != nil {
		t.Error(err)
	}
	for _, cmd := range procs {
		killed(t, cmd)
	}
}

// A process that the freezer holds, in a cgroup below as well, does not keep the
// others from their end.
func TestKillFrozen(t *testing.T) {
	name := "cri-test-frozen-" + strconv.Itoa(os.Getpid())
	dirs := testCgroup(t, name)
	for _, dir := range dirs {
		file, content := filepath.Join(dir, "freezer.state"), "FROZEN"
		if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err == nil && len(dirs) == 1 {
			file, content = filepath.Join(dir, "cgroup.freeze"), "1"
		}
		if _, err := os.Stat(file); err != nil {
			continue
		}
		below := filepath.Join(dir, "below")
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		one, other := sleeper(t, dirs...), sleeper(t, below)
		t.Cleanup(func() { cgroup.Thaw(context.Background(), dirs) })
		for _, f := range []string{file, filepath.Join(below, filepath.Base(file))} {
			if err := os.WriteFile(f, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := cgroup.End(ctx, "/"+name); err != nil {
			t.Fatal(err)
		}
		killed(t, one)
		killed(t, other)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
		return
	}
	t.Skip("needs a freezer: neither cgroup v2 nor the v1 controller is mounted")
}

// Between the moment a number is read from a cgroup and the moment its process is
// held, the number can become another process's: that one is not killed.
func TestKillSparesStrangers(t *testing.T) {
	dirs := testCgroup(t, "cri-test-strangers-"+strconv.Itoa(os.Getpid()))
	dir := dirs[0]
	stays, leaves := sleeper(t, dir), sleeper(t, dir)
	confirmed, err := cgroup.Confirmed(dir, func(pid int) {
		if pid == leaves.Process.Pid { // what a stranger with its number looks like
			join(t, filepath.Dir(dir), pid)
		}
	})
	if err != nil || !confirmed[stays.Process.Pid] || confirmed[leaves.Process.Pid] || len(confirmed) != 2 {
		t.Errorf("confirmed %v, %v; want %d alone", confirmed, err, stays.Process.Pid)
	}
}
