// SPDX-License-Identifier: Apache-2.0

//go:build integration

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroup is the kubelet's root cgroup: one folder per hierarchy, or a slice.
type cgroup struct {
	name  string // as the kubelet's configuration wants it
	dirs  []string
	slice string
}

// newCgroup names a cgroup and removes it at the end of the test: call it before the runtime starts, so that the
// runtime, whose pods are in it, has ended by then.
func newCgroup(t *testing.T) *cgroup {
	c := &cgroup{name: fmt.Sprintf("/crie2e%d", os.Getpid())} // a dash in a slice's name would be a level
	t.Cleanup(func() {
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// prepare makes the cgroup as the runtime's driver has it. The kubelet wants it there, and ready for processes, before
// it starts.
func (c *cgroup) prepare(t *testing.T, d *nodetest.Node) {
	t.Helper()
	answer, err := d.Runtime.RuntimeConfig(t.Context(), &cri.RuntimeConfigRequest{})
	if err == nil && answer.GetLinux().GetCgroupDriver() == cri.CgroupDriver_SYSTEMD {
		c.slice = c.name[1:] + ".slice"
		err = systemctl("start", c.slice)
	} else if err == nil {
		err = c.make(t)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func systemctl(args ...string) error {
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %v: %w: %s", args, err, out)
	}
	return nil
}

// make makes the folder in every hierarchy.
func (c *cgroup) make(t *testing.T) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return err
	}
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	v2 := err == nil
	if v2 {
		roots = []string{"/sys/fs/cgroup"}
		enableControllers(t)
	}
	for _, root := range roots {
		if info, err := os.Lstat(root); err != nil || !info.IsDir() { // links are second names
			continue
		}
		dir := filepath.Join(root, c.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		c.dirs = append(c.dirs, dir)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // v1: empty, and closed to processes, until set
			data, err := os.ReadFile(filepath.Join(root, file))
			if err != nil || v2 {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// enableControllers passes every controller of cgroup v2 down from the root. One that cannot be stays off.
func enableControllers(t *testing.T) {
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(data)) {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+name), 0o644); err != nil {
			t.Logf("controller %s: %v", name, err)
		}
	}
}

// remove removes the cgroup and those that the kubelet made below it.
func (c *cgroup) remove() error {
	if c.slice != "" {
		return systemctl("stop", c.slice)
	}
	var errs []error
	for _, dir := range c.dirs {
		var below []string
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				below = append(below, path)
			}
			return err
		})
		errs = append(errs, err)
		for _, b := range slices.Backward(below) {
			errs = append(errs, os.Remove(b))
		}
	}
	return errors.Join(errs...)
}

func hidden() []string { return []string{"/var/lib/kubelet", "/var/log/containers", "/var/log/pods"} }

// removeAbsent removes the folders that are not there yet, once they have served to hide something.
func removeAbsent() (remove func()) {
	var absent []string
	for _, dir := range hidden() {
		if _, err := os.Stat(dir); err != nil {
			absent = append(absent, dir)
		}
	}
	return func() {
		for _, dir := range absent {
			_ = os.Remove(dir) // not if something else uses it by now
		}
	}
}

// hide puts empty file systems over what a kubelet writes to whatever its configuration says, and settings it would
// change over those of the machine. They go with this program's mount namespace.
func hide() error {
	for _, dir := range hidden() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		file := filepath.Join("/var/lib/kubelet", "sysctl-"+filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", name, err)
		}
	}
	return nil
}
