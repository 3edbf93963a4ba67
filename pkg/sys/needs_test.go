// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestCheckFilesystem(t *testing.T) {
	if err := sys.CheckFilesystem("tmpfs"); err != nil {
		t.Error(err)
	}
	err := sys.CheckFilesystem("no-such-filesystem")
	if os.Geteuid() == 0 && (err == nil || !strings.Contains(err.Error(), "modprobe no-such-filesystem")) {
		t.Errorf("error %v, want one that names the filesystem and the remedy", err)
	}
}

func TestCheckControllers(t *testing.T) {
	for name, c := range map[string]struct {
		v2      bool
		files   string // of v2's root
		dirs    []string
		missing []string // words of the error
	}{
		"all of v2":                {v2: true, files: "cpuset cpu io memory hugetlb pids misc\n"},
		"v2 without memory":        {v2: true, files: "cpuset cpu io pids\n", missing: []string{"missing", "memory", "cgroup_enable=memory"}},
		"v2 without anything":      {v2: true, files: "\n", missing: []string{"cpu, memory, pids"}},
		"v1":                       {dirs: []string{"cpu", "memory", "pids", "freezer"}},
		"v1 without pids":          {dirs: []string{"cpu", "memory"}, missing: []string{"missing", "pids"}},
		"nothing mounted":          {missing: []string{"no cgroups are mounted", "mount -t cgroup2"}},
		"v2 whose file is missing": {v2: true, dirs: []string{"cgroup.controllers"}, missing: []string{"read controllers"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, d := range c.dirs {
				if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if c.files != "" {
				if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(c.files), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			says(t, sys.CheckControllers(root, c.v2), c.missing)
		})
	}
}

func TestCheckSystemd(t *testing.T) {
	dir := t.TempDir()
	dead, live := filepath.Join(dir, "dead"), filepath.Join(dir, "live")
	for _, path := range []string{dead, live} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if path == dead {
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			l.Close()
			continue
		}
		t.Cleanup(func() { l.Close() })
	}
	says(t, sys.CheckSystemd(t.Context(), []string{dead, live}), nil)
	says(t, sys.CheckSystemd(t.Context(), []string{dead, filepath.Join(dir, "none")}), []string{dead, "none", "dbus.socket", "cgroupfs"})
}

// says fails unless the error has all the words, or is none where there are no words.
func says(t *testing.T, err error, words []string) {
	t.Helper()
	if (err == nil) != (len(words) == 0) {
		t.Fatalf("error %v, want one with %q", err, words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}
