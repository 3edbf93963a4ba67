// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// Leaks reports everything of this daemon that is on the machine: mounts,
// network namespaces, processes, cgroups, packet filter rules and the bridge. It is an error when
// the daemon was wiped.
func (d *Daemon) Leaks() error {
	left := append(d.remains(), d.processes()...)
	if _, err := net.InterfaceByName(d.Bridge); err == nil {
		left = append(left, "interface "+d.Bridge)
	}
	if len(left) > 0 {
		return fmt.Errorf("left on the machine:\n  %s", strings.Join(left, "\n  "))
	}
	return nil
}

// Remains reports what is left of pods and containers while the daemon, its
// monitor and its network live on. It is an error once all were removed.
func (d *Daemon) Remains() error {
	left := d.remains()
	for _, p := range d.processes() {
		if !strings.Contains(p, "cri-shim") && !strings.Contains(p, "cri-monitor") {
			left = append(left, p)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left of pods and containers:\n  %s", strings.Join(left, "\n  "))
	}
	return nil
}

func (d *Daemon) remains() []string {
	left := d.mounts()
	left = append(left, d.namespaces()...)
	left = append(left, d.cgroups()...)
	left = append(left, d.Rules()...)
	return append(left, d.files()...)
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

// Layout is where the daemon keeps what.
func (d *Daemon) Layout() state.Layout {
	return state.Layout{Root: filepath.Join(d.Dir, "root"), State: filepath.Join(d.Dir, "state")}
}

func (d *Daemon) namespaces() []string {
	found, _ := filepath.Glob(filepath.Join(state.NetNSDir, d.Layout().NetNSTag()+"*"))
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

var longID = regexp.MustCompile(`[0-9a-f]{64}`)

// recordIDs reads every id the daemon's log mentions.
func (d *Daemon) recordIDs() []string { return longID.FindAllString(d.Log(), -1) }

// files finds what the daemon keeps per pod and container.
func (d *Daemon) files() []string {
	var out []string
	for _, dir := range []string{"root/records/pods", "root/records/containers", "root/pods", "root/containers", "state/bundles", "root/cni/attachments", "root/cni/results", "state/locks/network", "state/locks/runtime"} {
		entries, err := os.ReadDir(filepath.Join(d.Dir, dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".bad") {
				continue // set aside for people to look at
			}
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
