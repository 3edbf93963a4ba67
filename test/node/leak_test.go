// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/node"
)

// TestLeaksAreSeen leaves one thing of each kind behind, as a runtime with a fault would, and wants each reported.
func TestLeaksAreSeen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts and makes a cgroup")
	}
	dir := t.TempDir()
	id := strings.Repeat("c0ffee00", 8)
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(log, []byte("made "+id+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := node.TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	if leaks, err := before.Leaks(dir, log); err != nil || slices.ContainsFunc(leaks, func(l string) bool { return strings.Contains(l, id) }) {
		t.Fatalf("before anything was left: %v, %v", leaks, err)
	}
	want := leave(t, dir, id)
	leaks, err := before.Leaks(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if !slices.Contains(leaks, w) {
			t.Errorf("not seen: %s\nin %s", w, strings.Join(leaks, "\n   "))
		}
	}
}

// leave makes the leftovers, which go with the test, and returns how they are reported.
func leave(t *testing.T, dir, id string) []string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mount := filepath.Join(dir, "mnt")
	must(os.Mkdir(mount, 0o755))
	must(unix.Mount("tmpfs", mount, "tmpfs", 0, ""))
	t.Cleanup(func() { must(unix.Unmount(mount, unix.MNT_DETACH)) })

	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cri-leak"}, PeerName: "cri-leak-peer"}
	must(netlink.LinkAdd(link))
	t.Cleanup(func() { must(netlink.LinkDel(link)) })

	must(os.MkdirAll("/run/netns", 0o755))
	must(os.WriteFile("/run/netns/cri-leak", nil, 0o644))
	t.Cleanup(func() { must(os.Remove("/run/netns/cri-leak")) })

	group := filepath.Join(firstHierarchy(t), "cri-leak-"+id)
	must(os.Mkdir(group, 0o755))
	t.Cleanup(func() { must(os.Remove(group)) })

	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(os.Mkdir(filepath.Join(dir, id), 0o755))

	sleep := exec.Command("sleep", "60")
	must(sleep.Start())
	t.Cleanup(func() { must(sleep.Process.Kill()); _ = sleep.Wait() })

	return []string{
		"mount: " + mount, "interface: veth cri-leak", "network namespace: cri-leak", "cgroup: " + group,
		"file: " + filepath.Join(dir, "fifo"), "file: " + filepath.Join(dir, id), "process: " + node.Process{PID: sleep.Process.Pid, Name: "sleep"}.String(),
	}
}

// firstHierarchy is a place to make cgroups: the only one with cgroup v2, any one with v1.
func firstHierarchy(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	t.Fatal("no cgroup hierarchy is mounted")
	return ""
}
