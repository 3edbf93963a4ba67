// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// podLog launches a container that logs to DIR/ctr/0.log.
func podLog(n *monitornode.Node, dir string, command ...string) monitor.Launch {
	n.T.Helper()
	l := n.Spec("c", command...)
	l.LogDir, l.LogPath = dir, filepath.Join(dir, "ctr", "0.log")
	if err := os.MkdirAll(filepath.Join(dir, "ctr"), 0o755); err != nil {
		n.T.Fatal(err)
	}
	return l
}

// TestPlantedLinksAreNotFollowed has a container that can write into its pod's
// log directory, and plants symbolic links there before a launch, a rotation, and
// the next monitor's recovery.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	secret := t.TempDir()
	plant := func(t *testing.T, path, target string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	for name, link := range map[string]func(t *testing.T, dir string){
		"directory": func(t *testing.T, dir string) { plant(t, filepath.Join(dir, "ctr"), secret) },
		"file": func(t *testing.T, dir string) {
			plant(t, filepath.Join(dir, "ctr", "0.log"), filepath.Join(secret, "0.log"))
		},
		"directory, up":      func(t *testing.T, dir string) { plant(t, filepath.Join(dir, "ctr"), "../"+filepath.Base(secret)) },
		"directory, by proc": func(t *testing.T, dir string) { plant(t, filepath.Join(dir, "ctr"), "/proc/self/cwd"+secret) },
		"directory, inside":  func(t *testing.T, dir string) { plant(t, filepath.Join(dir, "ctr"), ".") },
	} {
		t.Run(name, func(t *testing.T) {
			n := monitornode.Start(t)
			dir := filepath.Join(filepath.Dir(secret), "pod")
			defer os.RemoveAll(dir)
			l := podLog(n, dir, "sleep", "1000")
			link(t, dir)
			if _, err := n.Client.Launch(n.Ctx(), l); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("launch: %v", err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			n.Launch(podLog(n, dir, "sleep", "1000"))
			link(t, dir)
			if err := n.Client.ReopenLog(n.Ctx(), "c"); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("reopen: %v", err)
			}
			n.Stop()
			n.KillMonitor()
			n.Connect()
			if err := n.Client.ReopenLog(n.Ctx(), "c"); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("reopen by the next monitor: %v", err)
			}
			if left, err := os.ReadDir(secret); err != nil || len(left) != 0 {
				t.Errorf("where the link leads: %v, %v", left, err)
			}
		})
	}
}

// TestLogDirectoryMayBeALink: an administrator's links above the pod's log
// directory, and at it, are followed.
func TestLogDirectoryMayBeALink(t *testing.T) {
	n := monitornode.Start(t)
	disk, root := t.TempDir(), t.TempDir()
	for target, link := range map[string]string{disk: filepath.Join(root, "pods"), "pod-1": filepath.Join(disk, "pod")} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(disk, "pod-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := podLog(n, filepath.Join(root, "pods", "pod"), "sh", "-c", "echo one; exec sleep 1000")
	n.Launch(l)
	monitornode.Eventually(t, "the line", func() bool { b, _ := os.ReadFile(l.LogPath); return len(b) > 0 })
	if err := os.Rename(l.LogPath, l.LogPath+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.Client.ReopenLog(n.Ctx(), "c"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(disk, "pod-1", "ctr", "0.log")); err != nil {
		t.Error(err)
	}
}
