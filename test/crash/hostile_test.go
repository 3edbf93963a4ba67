// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDamagedRecords damages the records of one pod, and of one container,
// while the daemon is away: it starts, says what it set aside, serves the rest,
// and what the lost records stood for is cleaned up as an orphan.
func TestDamagedRecords(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty":          func(path string) error { return os.Truncate(path, 0) },
		"one byte":       func(path string) error { return os.Truncate(path, 1) },
		"half":           func(path string) error { return truncate(path, 2) },
		"last byte lost": func(path string) error { return truncate(path, 1) },
		"noise":          func(path string) error { return os.WriteFile(path, []byte("\x00\xff{]"), 0o600) },
		"wrong version": func(path string) error {
			return edit(path, `"version":1`, `"version":999`)
		},
		"a directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newNode(t, func(*nodetest.Node) {})
			n := &node{Node: d, t: t}
			by := n.bystander()
			clean := d.Look(t)
			lost, kept := n.world(t), n.world(t)
			started := subject{before: upTo((*world).run, (*world).create, (*world).start)}
			lost.prepare(started)
			kept.prepare(started)
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
			records := d.Layout().Records()
			pod, container := filepath.Join(records, "pods", lost.pod+".json"), filepath.Join(records, "containers", kept.id+".json")
			if err := errors.Join(damage(pod), damage(container)); err != nil {
				t.Fatal(err)
			}
			if err := d.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			by.check(t, n)
			for _, path := range []string{pod, container} {
				if !strings.Contains(d.Log(), path+".bad") {
					t.Errorf("the log does not say that %s was set aside", path)
				}
				if err := os.RemoveAll(path + ".bad"); err != nil {
					t.Error(err)
				}
			}
			if r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: kept.pod}); err != nil || r.Status.State != cri.PodSandboxState_SANDBOX_READY {
				t.Errorf("the pod whose container's record is lost: %v, %v", r, err)
			}
			// The kubelet removes the container that it sees and the pod that it
			// knows; of the rest it knows nothing.
			if err := errors.Join(lost.remove(), lost.stopPod(), lost.removePod()); err != nil {
				t.Error(err)
			}
			kept.clear(clean)
		})
	}
}

// TestOrphanWhoseNetworkFails loses a pod's record while its plugin cannot
// detach it: nobody knows of the pod, so the daemon tries again by itself.
func TestOrphanWhoseNetworkFails(t *testing.T) {
	d := newNode(t, func(d *nodetest.Node) { slowNetwork(t, d) })
	n := &node{Node: d, t: t}
	by := n.bystander()
	clean := d.Look(t)
	lost := n.world(t)
	lost.prepare(subject{before: upTo((*world).run)})
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(d.Layout().Records(), "pods", lost.pod+".json")
	if err := os.Truncate(record, 0); err != nil {
		t.Fatal(err)
	}
	hold(t, filepath.Join(d.Dir, "fail-DEL"))
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 10*time.Second, "the failure is told", func() bool { return strings.Contains(d.Log(), "cannot detach") })
	letGo(filepath.Join(d.Dir, "fail-DEL"))
	letGo(record + ".bad")
	by.check(t, n)
	d.AwaitSame(t, clean, "after the plugin works again")
}

func truncate(path string, part int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if part == 1 {
		return os.Truncate(path, info.Size()-2) // the closing brace and the end of line
	}
	return os.Truncate(path, info.Size()/part)
}

func edit(path, old, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := strings.Replace(strings.ReplaceAll(string(data), `": `, `":`), old, text, 1)
	if !strings.Contains(changed, text) {
		return fmt.Errorf("%s has no %s: %s", path, old, data)
	}
	return os.WriteFile(path, []byte(changed), 0o600)
}

// TestWrongPermissions takes every permission off records and directories.
// Root reads them all the same; the daemon must not be the one that minds.
func TestWrongPermissions(t *testing.T) {
	d := newNode(t, func(*nodetest.Node) {})
	n := &node{Node: d, t: t}
	by := n.bystander()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	filepath.Walk(d.Layout().Records(), func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Chmod(path, 0))
	})
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	by.check(t, n)
}

// TestDamagedImageStore damages the image store's database.
func TestDamagedImageStore(t *testing.T) {
	for _, file := range []string{"metadata.db", "layers/metadata.db"} {
		t.Run(strings.ReplaceAll(file, "/", " "), func(t *testing.T) {
			d := newNode(t, func(*nodetest.Node) {})
			n := &node{Node: d, t: t}
			by := n.bystander()
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.Layout().Images(), file)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			noise := []byte(strings.Repeat("\xde\xad", 1<<14))
			_, err = f.WriteAt(noise, 0)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if err := d.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(d.Log(), "image store is damaged") {
				t.Error("the log does not say so")
			}
			by.check(t, n)                        // runs on the layers that were set aside
			n.AwaitImage(n.t, nodetest.TestImage) // is preloaded anew
			w := n.world(t)
			w.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start)})
			if err := errors.Join(w.stopPod(), w.removePod()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReboot makes a daemon believe that the machine was restarted: what ran
// is gone, the state directory with it, and the boot id is another.
func TestReboot(t *testing.T) {
	d := newNode(t, func(*nodetest.Node) {})
	n := &node{Node: d, t: t}
	warm(t, d)
	clean := d.Look(t)
	w, idle := n.world(t), n.world(t)
	w.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start)})
	idle.prepare(subject{before: upTo((*world).run, (*world).create)})
	monitor := d.MonitorPID()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	unix.Kill(monitor, unix.SIGKILL)
	powerOff(t, d)
	if err := os.WriteFile(filepath.Join(d.Layout().Records(), "boot"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := d.Status(t, w.id); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != 255 || s.Reason != "NodeRebooted" {
		t.Errorf("the container that ran: %v", s)
	}
	r, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: w.pod})
	if err != nil || r.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("its pod: %v, %v", r, err)
	}
	if text := d.LogOf(t, w.container.Metadata.Name); !strings.Contains(text, "sleeping") {
		t.Errorf("its log: %q", text)
	}
	if err := errors.Join(idle.stopPod(), idle.removePod(), w.stopPod(), w.removePod()); err != nil {
		t.Error(err)
	}
	again := n.world(t)
	again.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start)})
	again.clear(clean)
}

// powerOff ends every process of the daemon's containers, and takes away what a
// restart of the machine takes away.
func powerOff(t *testing.T, d *nodetest.Node) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if d.Rooted(filepath.Base(dir)) {
			var pid int
			fmt.Sscan(filepath.Base(dir), &pid)
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	time.Sleep(200 * time.Millisecond) // their ends
	for _, m := range d.Mounts() {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	for _, path := range d.NetNS() {
		unix.Unmount(path, unix.MNT_DETACH)
		os.Remove(path)
	}
	nodetest.Eventually(t, 10*time.Second, "the links of the namespaces are gone", func() bool {
		ports, err := d.Ports()
		return err == nil && len(ports) == 0
	})
	groups := d.Cgroups()
	for i := len(groups) - 1; i >= 0; i-- {
		os.Remove(groups[i])
	}
	if err := os.RemoveAll(filepath.Join(d.Dir, "state")); err != nil {
		t.Fatal(err)
	}
}

// TestFullAndReadOnlyDisk puts root on a small file system, fills it, and takes
// the right to write away.
func TestFullAndReadOnlyDisk(t *testing.T) {
	var root string
	d := newNode(t, func(d *nodetest.Node) {
		root = filepath.Join(d.Dir, "root")
		if err := errors.Join(os.Mkdir(root, 0o755), unix.Mount("cri-small", root, "tmpfs", 0, "size=48m")); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	n := &node{Node: d, t: t}
	by := n.bystander()
	w := n.world(t)
	w.prepare(subject{before: upTo((*world).run, (*world).create)})
	notReadyBecause := func(reason string) {
		t.Helper()
		r, err := d.Runtime.Status(t.Context(), &cri.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(fmt.Sprint(r.Status.Conditions), reason) {
			t.Errorf("conditions %v do not say %s", r.Status.Conditions, reason)
		}
	}
	refused := func() {
		t.Helper()
		other := n.world(t)
		if err := other.run(); err == nil {
			t.Error("a pod starts without its record")
		}
		if err := w.start(); err == nil {
			t.Error("a container starts without its record")
		}
		by.check(t, n)
	}
	fill := filepath.Join(root, "fill")
	filler, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<12); err == nil; {
		_, err = filler.Write(block)
	}
	filler.Close()
	notReadyBecause("RootNotWritable")
	refused()
	if err := errors.Join(d.Kill(), d.Up(t.Context())); err != nil {
		t.Errorf("start on a full disk: %v", err)
	}
	refused()
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if err := w.start(); err != nil {
		t.Errorf("start once there is room again: %v", err)
	}
	if err := errors.Join(w.kill(), w.stopPod(), w.removePod()); err != nil {
		t.Error(err)
	}
	readOnly(t, d, root)
	by.check(t, n)
}

// readOnly starts the daemon on a root that cannot be written: it could keep
// nothing that it acknowledges, so it says why and ends; what runs, runs on.
func readOnly(t *testing.T, d *nodetest.Node, root string) {
	t.Helper()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Logf("not tested: a read-only root: %v", err) // somebody has a file open for writing
	} else {
		if err := d.Up(t.Context()); err == nil || !strings.Contains(d.Log(), "read-only file system") {
			t.Errorf("start on a read-only root: %v", err)
		}
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}
