// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/harness"
	bolt "go.etcd.io/bbolt"
)

// facts is all that one daemon has on the machine: mounts, namespaces, links,
// cgroups, processes, packet filter rules, files, snapshots, blobs and leases.
type facts map[string]bool

var longID = regexp.MustCompile(`[0-9a-f]{64}`)

// look takes the facts of d.
func look(t testing.TB, d *harness.Daemon) facts {
	t.Helper()
	f := facts{}
	for kind, list := range map[string]func(*harness.Daemon) []string{
		"mount": mounts, "netns": namespaces, "port of the bridge": links, "cgroup": cgroups,
		"process": processes, "rule": (*harness.Daemon).Rules, "file": files, "lease": leases,
	} {
		for _, item := range list(d) {
			f[kind+" "+item] = true
		}
	}
	return f
}

// settle waits until the facts are those of want again, for what is cleaned up
// in the background, and fails with the difference if they do not become so.
func settle(t testing.TB, d *harness.Daemon, want facts, when string) {
	t.Helper()
	var diff []string
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if diff = difference(want, look(t, d)); len(diff) == 0 {
			return
		}
	}
	t.Errorf("%s:\n  %s", when, strings.Join(diff, "\n  "))
}

func difference(want, got facts) []string {
	var diff []string
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if !want[k] {
			diff = append(diff, "left: "+k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if !got[k] {
			diff = append(diff, "lost: "+k)
		}
	}
	return diff
}

func mounts(d *harness.Daemon) []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], d.Dir) {
			out = append(out, f[4])
		}
	}
	return out
}

func namespaces(d *harness.Daemon) []string {
	found, _ := filepath.Glob("/run/netns/" + d.Layout().NetNSTag() + "*")
	return found
}

func links(d *harness.Daemon) []string {
	found, _ := filepath.Glob("/sys/class/net/" + d.Bridge + "/brif/*")
	return found
}

// ids are all ids the daemon ever spoke of: what carries one of them is its.
func ids(d *harness.Daemon) map[string]bool {
	out := map[string]bool{}
	for _, id := range longID.FindAllString(d.Log(), -1) {
		out[id] = true
	}
	return out
}

func cgroups(d *harness.Daemon) []string {
	known := ids(d)
	var out []string
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/cri-*")
	unified, _ := filepath.Glob("/sys/fs/cgroup/cri-*")
	for _, top := range append(tops, unified...) {
		if !known[strings.TrimPrefix(filepath.Base(top), "cri-")] {
			continue
		}
		filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				out = append(out, path)
			}
			return nil
		})
	}
	return out
}

// processes have the daemon's directory in their arguments, as the monitor,
// runtimes and plugins do, or live on one of its root filesystems.
func processes(d *harness.Daemon) []string {
	var out []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if pid == fmt.Sprint(os.Getpid()) || pid == fmt.Sprint(d.PID()) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		if strings.Contains(args, d.Dir) && !strings.Contains(args, "cri-monitor") || rootedIn(dir, d.Dir) {
			out = append(out, pid+" "+args)
		}
	}
	return out
}

func rootedIn(proc, dir string) bool {
	data, _ := os.ReadFile(filepath.Join(proc, "mountinfo"))
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 4 && f[4] == "/" && (strings.Contains(line, dir) || strings.HasPrefix(f[3], dir)) {
			return true
		}
	}
	return false
}

// files are all files of the daemon but for logs and what the image store
// keeps to itself; snapshots and blobs are among them.
func files(d *harness.Daemon) []string {
	var out []string
	for _, top := range []string{"root", "state"} {
		filepath.WalkDir(filepath.Join(d.Dir, top), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			rel, _ := filepath.Rel(d.Dir, path)
			switch {
			case strings.HasPrefix(rel, "root/images/layers/snapshots/"):
				out = append(out, rel)
				return fs.SkipDir // what is in a layer is the image's business
			case e.IsDir() && e.Name() == "rootfs" && strings.HasPrefix(rel, "root/containers/"):
				return fs.SkipDir
			case !e.IsDir() && !strings.Contains(rel, "last_reserved_ip"):
				out = append(out, rel)
			case e.IsDir() && (longID.MatchString(e.Name()) || strings.Contains(rel, "ingest/")):
				out = append(out, rel)
			}
			return nil
		})
	}
	return out
}

// leases reads a copy of the image store's metadata: the daemon has it locked.
func leases(d *harness.Daemon) []string {
	data, err := os.ReadFile(filepath.Join(d.Dir, "root/images/metadata.db"))
	if err != nil {
		return nil
	}
	path := filepath.Join(d.Dir, "metadata.copy")
	defer os.Remove(path)
	if os.WriteFile(path, data, 0o600) != nil {
		return nil
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return []string{"unreadable: " + err.Error()}
	}
	defer db.Close()
	var out []string
	db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("v1"))
		for _, name := range []string{"k8s.io", "leases"} {
			if b != nil {
				b = b.Bucket([]byte(name))
			}
		}
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, _ []byte) error { out = append(out, string(k)); return nil })
	})
	return out
}
