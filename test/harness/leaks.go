// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// Leaks reports everything of this daemon that is on the machine: mounts,
// network namespaces, processes, cgroups and the bridge. It is an error when
// the daemon was wiped.
func (d *Daemon) Leaks() error {
	var left []string
	left = append(left, d.mounts()...)
	left = append(left, d.namespaces()...)
	left = append(left, d.processes()...)
	left = append(left, d.cgroups()...)
	left = append(left, d.files()...)
	if _, err := net.InterfaceByName(d.Bridge); err == nil {
		left = append(left, "interface "+d.Bridge)
	}
	if len(left) > 0 {
		return fmt.Errorf("left on the machine:\n  %s", strings.Join(left, "\n  "))
	}
	return nil
}

func (d *Daemon) mounts() []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, d.Dir) {
			out = append(out, "mount "+strings.Fields(line)[4])
		}
	}
	return out
}

func (d *Daemon) layout() state.Layout {
	return state.Layout{Root: filepath.Join(d.Dir, "root"), State: filepath.Join(d.Dir, "state")}
}

func (d *Daemon) namespaces() []string {
	found, _ := filepath.Glob(filepath.Join(state.NetNSDir, d.layout().NetNSTag()+"*"))
	return found
}

// processes finds what was started from this daemon's directory: the monitor,
// runtimes and plugins have it in their arguments, containers in their root.
func (d *Daemon) processes() []string {
	var out []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		args := strings.ReplaceAll(string(cmdline), "\x00", " ")
		inside := filepath.Base(dir) != fmt.Sprint(os.Getpid()) && strings.Contains(args, d.Dir)
		if inside || strings.Contains(string(mounts), d.Dir+"/state/pause") {
			out = append(out, "process "+filepath.Base(dir)+" "+args)
		}
	}
	return out
}

// cgroups finds cgroups of pods: the tests give pods no parent, so they are
// /cri-<pod id>. Those of other daemons have other ids, which the records tell.
func (d *Daemon) cgroups() []string {
	ids := map[string]bool{}
	for _, id := range d.recordIDs() {
		ids[id] = true
	}
	var out []string
	roots, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, root := range append(roots, "/sys/fs/cgroup") {
		dirs, _ := filepath.Glob(filepath.Join(root, "cri-*"))
		for _, dir := range dirs {
			if ids[strings.TrimPrefix(filepath.Base(dir), "cri-")] {
				out = append(out, "cgroup "+dir)
			}
		}
	}
	return out
}

// recordIDs reads every pod id the daemon's log mentions.
func (d *Daemon) recordIDs() []string {
	var ids []string
	for _, field := range strings.Fields(d.Log()) {
		if id, ok := strings.CutPrefix(field, "pod="); ok {
			ids = append(ids, strings.Trim(id, `"`))
		}
	}
	return ids
}

// files finds what the daemon keeps per pod and container.
func (d *Daemon) files() []string {
	var out []string
	for _, dir := range []string{"root/records/pods", "root/records/containers", "root/pods", "root/containers", "state/bundles", "root/cni/attachments"} {
		entries, err := os.ReadDir(filepath.Join(d.Dir, dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	filepath.WalkDir(filepath.Join(d.Dir, "state", "monitor"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeNamedPipe != 0 {
			out = append(out, "pipe "+path)
		}
		return nil
	})
	return out
}
