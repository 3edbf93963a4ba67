// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/disk"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// rootDisk is a small file system of its own for a daemon's root directory.
type rootDisk struct{ root string }

func (s *rootDisk) node(t *testing.T, mount func(root string) error) *nodetest.Node {
	t.Helper()
	d := prepared(t, func(d *nodetest.Node) {
		s.root = filepath.Join(d.Dir, "root")
		if err := errors.Join(os.Mkdir(s.root, 0o755), mount(s.root)); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Unmount(s.root, unix.MNT_DETACH) })
	return d
}

func small(root string) error { return unix.Mount("cri-small", root, "tmpfs", 0, "size=48m") }

func (s *rootDisk) fill() error {
	f, err := os.Create(filepath.Join(s.root, "fill"))
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 1<<12); err == nil; {
		_, err = f.Write(block)
	}
	if errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return err
}

func (s *rootDisk) empty() error { return os.Remove(filepath.Join(s.root, "fill")) }

// forbid lays a read-only view of the file system over it: to make it read-only
// itself is refused while the daemon has files open for writing.
func (s *rootDisk) forbid() error {
	return errors.Join(unix.Mount(s.root, s.root, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("", s.root, "", unix.MS_PRIVATE|unix.MS_REC, ""), // or what is mounted below goes with it
		unix.Mount("", s.root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
}

func (s *rootDisk) allow() error { return unix.Unmount(s.root, unix.MNT_DETACH) }

// TestRootStopsTakingWrites takes the right, or the room, to write away from a
// daemon with running pods, and gives it back.
func TestRootStopsTakingWrites(t *testing.T) {
	for _, tt := range []struct {
		name, cause  string
		take, giveIt func(*rootDisk) error
	}{
		{"read-only", "read-only", (*rootDisk).forbid, (*rootDisk).allow},
		{"full", "no space left", (*rootDisk).fill, (*rootDisk).empty},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &rootDisk{}
			d := s.node(t, small)
			warm(t, d)
			by := newBystander(t, d)
			clean := d.Look(t)
			p := newPoor(t, d)
			if err := tt.take(s); err != nil {
				t.Fatal(err)
			}
			p.endures(tt.cause)
			by.check(t)
			if err := tt.giveIt(s); err != nil {
				t.Fatal(err)
			}
			p.recovers()
			by.check(t)
			p.clear(clean)
		})
	}
}

// poor are the pods of a node whose disk takes no writes.
type poor struct {
	*nodetest.Node
	t                     *testing.T
	ends, stopped, idling *subject
	daemon                int
}

func newPoor(t *testing.T, d *nodetest.Node) *poor {
	p := &poor{Node: d, t: t, ends: started(t, d), stopped: started(t, d), idling: newSubject(t, d), daemon: d.PID()}
	p.idling.must(p.idling.run, p.idling.create)
	return p
}

// ready is the node's condition RuntimeReady.
func (p *poor) ready() *cri.RuntimeCondition {
	p.t.Helper()
	r, err := p.Runtime.Status(p.t.Context(), &cri.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	return r.Status.Conditions[0]
}

// endures holds what the daemon does against what it cannot: it serves, says
// why it can't do the rest, and leaves nothing of that.
func (p *poor) endures(cause string) {
	p.t.Helper()
	pid := pidOf(p.t, p.Node, p.ends.id)
	before := p.Look(p.t)
	refused := func(what string, err error) {
		p.t.Helper()
		if err == nil || !strings.Contains(err.Error(), cause) {
			p.t.Errorf("%s: %v, want %q", what, err, cause)
		}
	}
	other := newSubject(p.t, p.Node)
	refused("run", other.run())
	other.pod = p.idling.pod
	refused("create", other.create())
	refused("start", p.idling.start())
	if c := p.ready(); c.Status || c.Reason != "RootNotWritable" || c.Message == "" {
		p.t.Errorf("RuntimeReady: %v", c)
	}
	answers(p.t, p.Node)
	p.AwaitSame(p.t, before, "what was refused left something")
	began := time.Now()
	err := p.stopped.kill()
	refused("stop", err)
	if took := time.Since(began); took > 5*time.Second || !strings.Contains(fmt.Sprint(err), "has ended") {
		p.t.Errorf("stop, after %s: %v", took, err)
	}
	unix.Kill(pid, unix.SIGQUIT) // at which Go programs end with 2
	nodetest.Eventually(p.t, 10*time.Second, "both ends were seen", func() bool {
		return strings.Count(p.Log(), "exit not recorded") >= 2
	})
	refused("stop of what has ended by itself", p.ends.stop())
	answers(p.t, p.Node)
}

// recovers holds that all goes on without a restart, and that what happened
// meanwhile is known.
func (p *poor) recovers() {
	p.t.Helper()
	for code, w := range map[int32]*subject{2: p.ends, 137: p.stopped} {
		if s := p.AwaitExit(p.t, w.id); s.ExitCode != code || s.FinishedAt < s.StartedAt {
			p.t.Errorf("exit code %d, want %d: %v", s.ExitCode, code, s)
		}
	}
	if c := p.ready(); !c.Status {
		p.t.Errorf("RuntimeReady: %v", c)
	}
	if err := p.idling.start(); err != nil {
		p.t.Errorf("start: %v", err)
	}
	again := newSubject(p.t, p.Node)
	again.must(again.run, again.create, again.start, again.exec, again.stopPod, again.removePod)
	if p.PID() != p.daemon {
		p.t.Error("the daemon was started anew")
	}
}

func (p *poor) clear(clean nodetest.Snapshot) {
	p.t.Helper()
	for _, w := range []*subject{p.ends, p.stopped, p.idling} {
		if err := errors.Join(w.stopPod(), w.removePod()); err != nil {
			p.t.Error(err)
		}
	}
	p.AwaitSame(p.t, clean, "after the pods' removal")
}

// TestRootStopsAtAnError lets the file system of root come upon an error, which
// is how one becomes read-only while files on it are open. There is no way back
// but to mount another: what ran is torn down, and the node serves.
func TestRootStopsAtAnError(t *testing.T) {
	s, image := &rootDisk{}, disk.Image(t, 96<<20)
	d := s.node(t, func(root string) error { return exec.Command("mount", "-o", "loop", image, root).Run() })
	warm(t, d)
	p := newPoor(t, d)
	started(t, d)
	if out, err := exec.Command("mount", "-o", "remount,abort", s.root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.endures("read-only")
	if err := errors.Join(d.Kill(), unix.Unmount(s.root, unix.MNT_DETACH), d.Up(t.Context())); err != nil {
		t.Fatal(err)
	}
	d.AwaitImage(t, nodetest.TestImage)
	w := newSubject(t, d)
	w.must(w.run, w.create, w.start, w.stopPod, w.removePod)
	nodetest.Eventually(t, 10*time.Second, "nothing is left of the pods whose records are lost", func() bool {
		return d.Remains() == nil
	})
	d.AwaitRecovered(t)
	if strings.Contains(d.Log(), "recovery failed") {
		t.Error("recovery stopped at what has no record")
	}
}

// TestFullAndReadOnlyDisk puts root on a small file system, fills it, and takes
// the right to write away.
func TestFullAndReadOnlyDisk(t *testing.T) {
	var root string
	d := prepared(t, func(d *nodetest.Node) {
		root = filepath.Join(d.Dir, "root")
		if err := errors.Join(os.Mkdir(root, 0o755), unix.Mount("cri-small", root, "tmpfs", 0, "size=48m")); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	by := newBystander(t, d)
	w := newSubject(t, d)
	w.must(w.run, w.create)
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
		other := newSubject(t, d)
		if err := other.run(); err == nil {
			t.Error("a pod starts without its record")
		}
		if err := w.start(); err == nil {
			t.Error("a container starts without its record")
		}
		by.check(t)
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
	by.check(t)
}

// readOnly starts the daemon on a root that cannot be written: it could keep
// nothing that it acknowledges, so it says why and ends; what runs, runs on.
func readOnly(t *testing.T, d *nodetest.Node, root string) {
	t.Helper()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("make root read-only: %v", err)
	}
	if err := d.Up(t.Context()); err == nil || !strings.Contains(d.Log(), "read-only file system") {
		t.Errorf("start on a read-only root: %v", err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}
