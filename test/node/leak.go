// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Snapshot is what the machine holds that a runtime could leave behind, by kind.
type Snapshot map[string][]string

// TakeSnapshot looks at mounts, network interfaces, network namespaces, packet filter rules, cgroups and the processes
// below this one.
func TakeSnapshot() (Snapshot, error) {
	s := Snapshot{}
	for kind, take := range map[string]func() ([]string, error){
		"mount": mounts, "interface": interfaces, "network namespace": namespaces,
		"rule": rules, "cgroup": cgroups, "process": processes,
	} {
		list, err := take()
		if err != nil {
			return nil, fmt.Errorf("look for each %s: %w", kind, err)
		}
		s[kind] = list
	}
	return s, nil
}

var longID = regexp.MustCompile(`[0-9a-f]{64}`)

// Leaks says what is there now and was not in the snapshot, and what files below dir carry an object's name, as they
// would after its removal was forgotten. Of cgroups only those count whose name has an id found in the daemon's log:
// the machine's other users make cgroups as well.
func (s Snapshot) Leaks(dir, log string) ([]string, error) {
	now, err := TakeSnapshot()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(log)
	if err != nil {
		return nil, err
	}
	ours := map[string]bool{}
	for _, id := range longID.FindAllString(string(data), -1) {
		ours[id] = true
	}
	var leaks []string
	for _, kind := range slices.Sorted(maps.Keys(now)) {
		for _, item := range now[kind] {
			if slices.Contains(s[kind], item) || kind == "cgroup" && !ours[longID.FindString(item)] {
				continue
			}
			leaks = append(leaks, kind+": "+item)
		}
	}
	files, err := leftFiles(dir)
	return append(leaks, files...), err
}

// leftFiles lists what is below dir and named after an object, except in the image store, in what was preloaded and in logs.
func leftFiles(dir string) ([]string, error) {
	var left []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"images", "logs", "preload"}, d.Name()) {
			return fs.SkipDir
		}
		if longID.MatchString(d.Name()) || d.Type()&fs.ModeNamedPipe != 0 {
			left = append(left, "file: "+name)
			if d.IsDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	return left, err
}

func mounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			list = append(list, fields[4])
		}
	}
	return list, nil
}

func interfaces() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, l := range links {
		if l.Type() != "bridge" { // a bridge stays, as CNI's bridge plugin wants it
			list = append(list, l.Type()+" "+l.Attrs().Name)
		}
	}
	return list, nil
}

func namespaces() ([]string, error) {
	entries, err := os.ReadDir("/run/netns")
	if os.IsNotExist(err) {
		return nil, nil
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}

var (
	counters = regexp.MustCompile(`counter packets \d+ bytes \d+|\[\d+:\d+\]`)
	kept     = regexp.MustCompile(`CNI-HOSTPORT-(DNAT|SETMARK|MASQ)`)
	perPod   = regexp.MustCompile(`CNI-(DN|SN|[0-9a-f])|@?hostports|cni-hostport|id: "[0-9a-f]|dnat to|DNAT|[0-9a-f]{64}`)
)

// rules lists packet filter rules that belong to one pod: the chains that a plugin makes once and keeps are no leak.
func rules() ([]string, error) {
	var list []string
	for _, command := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}} {
		if _, err := exec.LookPath(command[0]); err != nil {
			continue
		}
		out, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", strings.Join(command, " "), err)
		}
		for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
			if line := strings.TrimSpace(counters.ReplaceAllString(s.Text(), "")); perPod.MatchString(kept.ReplaceAllString(line, "")) && !strings.HasPrefix(line, "#") {
				list = append(list, command[0]+": "+line)
			}
		}
	}
	return list, nil
}

func cgroups() ([]string, error) {
	var list []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a cgroup that went in between
		}
		if d.IsDir() && longID.MatchString(d.Name()) {
			list = append(list, name)
		}
		return nil
	})
	return list, err
}

func processes() ([]string, error) {
	all, err := Descendants()
	reap(all)
	var list []string
	for _, p := range all {
		if p.State != 'Z' {
			list = append(list, p.String())
		}
	}
	return list, err
}
