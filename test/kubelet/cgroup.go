// SPDX-License-Identifier: Apache-2.0

// Package kubelet makes the place that a real kubelet of a test needs on this machine: a cgroup of its own instead of the
// machine's root, and folders and settings of its own over those that it changes whatever its configuration says. It
// starts no kubelet.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Cgroup is a kubelet's root cgroup: one folder per hierarchy, or a slice.
type Cgroup struct {
	Name  string // as the kubelet's configuration wants it: a slash and a word without a dash, which would be a level of slices
	dirs  []string
	slice string
}

// Make makes the cgroup as the runtime's driver has it. The kubelet wants it there, and ready for processes, before it
// starts.
func (c *Cgroup) Make(ctx context.Context, runtime cri.RuntimeServiceClient) error {
	answer, err := runtime.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
	if err != nil {
		return fmt.Errorf("make cgroup %s: %w", c.Name, err)
	}
	if answer.GetLinux().GetCgroupDriver() == cri.CgroupDriver_SYSTEMD {
		c.slice = c.Name[1:] + ".slice"
		return systemctl(ctx, "start", c.slice)
	}
	if err := c.folders(); err != nil {
		return fmt.Errorf("make cgroup %s: %w", c.Name, err)
	}
	return nil
}

func systemctl(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %v: %w: %s", args, err, out)
	}
	return nil
}

// folders makes one in every hierarchy.
func (c *Cgroup) folders() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return err
	}
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	v2 := err == nil
	if v2 {
		roots = []string{"/sys/fs/cgroup"}
		if err := enableControllers(); err != nil {
			return err
		}
	}
	for _, root := range roots {
		if info, err := os.Lstat(root); err != nil || !info.IsDir() { // links are second names
			continue
		}
		dir := filepath.Join(root, c.Name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		c.dirs = append(c.dirs, dir)
		if v2 {
			continue
		}
		if err := openCpuset(root, dir); err != nil {
			return err
		}
	}
	return nil
}

// openCpuset gives a cgroup of v1 what its parent has: these files are empty at first, and closed to processes until set.
func openCpuset(root, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			continue // another controller
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers passes every controller of cgroup v2 down from the root. One that cannot be stays off: the kubelet
// says so if it needs it.
func enableControllers() error {
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(data)) {
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+name), 0o644)
	}
	return nil
}

// Remove removes the cgroup and those that the kubelet made below it. Call it when the runtime, whose pods are in it, has
// ended.
func (c *Cgroup) Remove(ctx context.Context) error {
	if c.slice != "" {
		return systemctl(ctx, "stop", c.slice)
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
