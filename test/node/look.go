// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/dump"
)

var longID = regexp.MustCompile(`[0-9a-f]{64}`)

// ids are all ids the node ever spoke of: what carries one of them is its.
func (n *Node) ids() map[string]bool {
	out := map[string]bool{}
	for _, id := range longID.FindAllString(n.Log(), -1) {
		out[id] = true
	}
	return out
}

// Layout is where the daemon keeps what.
func (n *Node) Layout() state.Layout {
	return state.Layout{Root: filepath.Join(n.Dir, "root"), State: filepath.Join(n.Dir, "state")}
}

// Mounts are the node's mount points.
func (n *Node) Mounts() []string {
	var out []string
	of := "self"
	if n.Inside != 0 {
		of = strconv.Itoa(n.Inside)
	}
	for _, m := range mountInfo(of) {
		if n.Alone || strings.HasPrefix(m.point, n.Dir) || strings.Contains(m.line, n.Dir+"/") {
			out = append(out, m.point)
		}
	}
	return out
}

func (n *Node) mounts() ([]Item, error) { return named(OfPod, n.Mounts()), nil }

func named(span Span, names []string) []Item {
	out := make([]Item, len(names))
	for i, name := range names {
		out[i] = Item{Name: name, Span: span}
	}
	return out
}

type mountLine struct{ line, root, point string }

// mountInfo is the mount table of a process; empty when it has ended.
func mountInfo(pid string) []mountLine {
	data, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
	var out []mountLine
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 {
			out = append(out, mountLine{line, f[3], f[4]})
		}
	}
	return out
}

// inside is a command in the node's namespaces.
func (n *Node) inside(args ...string) []string {
	if n.Inside == 0 {
		return args
	}
	return append([]string{"nsenter", "--target", strconv.Itoa(n.Inside), "--mount", "--net", "--uts", "--"}, args...)
}

// glob is filepath.Glob as the node sees files.
func (n *Node) glob(pattern string) []string {
	dir := filepath.Dir(pattern)
	there := dir
	if n.Inside != 0 {
		if straight, err := filepath.EvalSymlinks(dir); err == nil { // or an absolute link on the way would lead back to us
			there = straight
		}
		there = filepath.Join(fmt.Sprintf("/proc/%d/root", n.Inside), there)
	}
	found, _ := filepath.Glob(filepath.Join(there, filepath.Base(pattern)))
	for i := range found {
		found[i] = filepath.Join(dir, filepath.Base(found[i]))
	}
	return found
}

// allLinks are those of the node's network namespace.
func (n *Node) allLinks() ([]netlink.Link, error) {
	if n.Inside == 0 {
		return dump.Whole(netlink.LinkList)
	}
	ns, err := netns.GetFromPid(n.Inside)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	at, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return dump.Whole(at.LinkList)
}

// NetNS are the node's pinned network namespaces.
func (n *Node) NetNS() []string {
	prefix := n.Layout().NetNSPrefix()
	if n.Alone {
		prefix = state.NetNSDir + "/"
	}
	return n.glob(prefix + "*")
}

func (n *Node) namespaces() ([]Item, error) { return named(OfPod, n.NetNS()), nil }

// links are the node's bridge and its ports, the pods' ends; alone, all. CNI's bridge plugin leaves its bridge, which only
// our wipe removes.
func (n *Node) links() ([]Item, error) {
	links, err := n.allLinks()
	if err != nil {
		return nil, err
	}
	bridge := -1
	for _, l := range links {
		if l.Attrs().Name == n.Network.Bridge {
			bridge = l.Attrs().Index
		}
	}
	var out []Item
	for _, l := range links {
		i := Item{Name: l.Type() + " " + l.Attrs().Name}
		if l.Type() == "bridge" {
			i.Span = OfNode
			if n.Kind != CRIShim || !n.Network.Default {
				i.Span = Kept
			}
		}
		if n.Alone || l.Attrs().Index == bridge || l.Attrs().MasterIndex == bridge {
			out = append(out, i)
		}
	}
	return out, nil
}

// Ports are the pods' ends on the node's bridge; alone, every link that is no bridge.
func (n *Node) Ports() ([]string, error) {
	links, err := n.links()
	var out []string
	for _, l := range links {
		if l.Span == OfPod {
			out = append(out, l.Name)
		}
	}
	return out, err
}

// Cgroups are those that are named after an object of the node, and all below them: each before its children.
func (n *Node) Cgroups() []string {
	known := n.ids()
	var out []string
	if len(known) == 0 {
		return nil
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // a cgroup that went in between
		}
		if slices.ContainsFunc(longID.FindAllString(name, -1), func(id string) bool { return known[id] }) {
			out = append(out, name)
		}
		return nil
	})
	return out
}

func (n *Node) cgroups() ([]Item, error) { return named(OfPod, n.Cgroups()), nil }

// lasting are programs of ours that outlive the pods. There may be one of each, whichever process it is.
var lasting = []string{"cri-shim", "cri-monitor"}

// processes are those that have the node's folder in their arguments, as the monitor, runtimes and plugins do, and those
// that live on one of its root file systems; alone, also those below this one and those in its mount namespace.
func (n *Node) processes() ([]Item, error) {
	own, err := n.own()
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []Item
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		if pid == fmt.Sprint(os.Getpid()) || args == "" || !strings.Contains(args, n.Dir) && !own[pid] && !n.Rooted(pid) {
			continue
		}
		if name := program(pid); strings.Contains(args, n.Config) || slices.Contains(lasting, name) {
			out = append(out, Item{Name: name, Span: OfNode})
		} else {
			out = append(out, Item{Name: pid + " " + args})
		}
	}
	return out, nil
}

// own are the processes that are the node's because nobody else starts any here.
func (n *Node) own() (map[string]bool, error) {
	out := map[string]bool{}
	if !n.Alone {
		return out, nil
	}
	below, err := Descendants()
	if err != nil {
		return nil, err
	}
	reap(below)
	for _, p := range below {
		out[fmt.Sprint(p.PID)] = p.State != 'Z'
	}
	if os.Getenv(isolated) == "" {
		return out, nil
	}
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	for _, link := range links {
		if there, err := os.Readlink(link); err == nil && there == here {
			out[strings.Split(link, "/")[2]] = true
		}
	}
	return out, err
}

// Rooted tells whether a process lives on a root file system of the node's containers.
func (n *Node) Rooted(pid string) bool {
	return slices.ContainsFunc(mountInfo(pid), func(m mountLine) bool {
		return m.point == "/" && (strings.Contains(m.line, n.Dir) || strings.HasPrefix(m.root, n.Dir)) ||
			strings.Contains(m.line, n.Layout().PauseRootFS())
	})
}

// MonitorPID is the process id of the node's cri-monitor; 0 when none runs.
func (n *Node) MonitorPID() int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if program(filepath.Base(dir)) == "cri-monitor" && strings.Contains(string(cmdline), n.Dir) {
			var pid int
			if _, err := fmt.Sscan(filepath.Base(dir), &pid); err == nil {
				return pid
			}
		}
	}
	return 0
}

// program is the name of the program that a process runs.
func program(pid string) string {
	exe, _ := os.Readlink("/proc/" + pid + "/exe")
	return filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
}
