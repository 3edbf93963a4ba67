// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// disk is a small file system of its own for a daemon's root directory.
type disk struct{ root string }

func (s *disk) node(t *testing.T, mount func(root string) error) *node {
	t.Helper()
	d := newNode(t, func(d *nodetest.Node) {
		s.root = filepath.Join(d.Dir, "root")
		if err := errors.Join(os.Mkdir(s.root, 0o755), mount(s.root)); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Unmount(s.root, unix.MNT_DETACH) })
	return &node{Node: d, t: t}
}

func small(root string) error { return unix.Mount("cri-small", root, "tmpfs", 0, "size=48m") }

func (s *disk) fill() error {
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

func (s *disk) empty() error { return os.Remove(filepath.Join(s.root, "fill")) }

// forbid lays a read-only view of the file system over it: to make it read-only
// itself is refused while the daemon has files open for writing.
func (s *disk) forbid() error {
	return errors.Join(unix.Mount(s.root, s.root, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("", s.root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
}

func (s *disk) allow() error { return unix.Unmount(s.root, unix.MNT_DETACH) }

// TestRootStopsTakingWrites takes the right, or the room, to write away from a
// daemon with running pods, and gives it back.
func TestRootStopsTakingWrites(t *testing.T) {
	for _, tt := range []struct {
		name, cause  string
		take, giveIt func(*disk) error
	}{
		{"read-only", "read-only", (*disk).forbid, (*disk).allow},
		{"full", "no space left", (*disk).fill, (*disk).empty},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &disk{}
			n := s.node(t, small)
			warm(t, n.Node)
			by := n.bystander()
			clean := n.Node.Look(t)
			p := n.poor(t)
			if err := tt.take(s); err != nil {
				t.Fatal(err)
			}
			p.endures(tt.cause)
			by.check(t, n)
			if err := tt.giveIt(s); err != nil {
				t.Fatal(err)
			}
			p.recovers()
			by.check(t, n)
			p.clear(clean)
		})
	}
}

// poor are the pods of a node whose disk takes no writes.
type poor struct {
	*node
	t                     *testing.T
	ends, stopped, idling *world
	daemon                int
}

func (n *node) poor(t *testing.T) *poor {
	p := &poor{node: n, t: t, ends: n.world(t), stopped: n.world(t), idling: n.world(t), daemon: n.PID()}
	for _, w := range []*world{p.ends, p.stopped} {
		w.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start)})
	}
	p.idling.prepare(subject{before: upTo((*world).run, (*world).create)})
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
	pid, _ := strconv.Atoi(p.pidOf(p.ends.id))
	before := p.Look(p.t)
	refused := func(what string, err error) {
		p.t.Helper()
		if err == nil || !strings.Contains(err.Error(), cause) {
			p.t.Errorf("%s: %v, want %q", what, err, cause)
		}
	}
	other := p.world(p.t)
	refused("run", other.run())
	other.pod = p.idling.pod
	refused("create", other.create())
	refused("start", p.idling.start())
	if c := p.ready(); c.Status || c.Reason != "RootNotWritable" || c.Message == "" {
		p.t.Errorf("RuntimeReady: %v", c)
	}
	answers(p.t, p.Node)
	p.Node.AwaitSame(p.t, before, "what was refused left something")
	began := time.Now()
	err := p.stopped.kill()
	refused("stop", err)
	if took := time.Since(began); took > 5*time.Second || !strings.Contains(fmt.Sprint(err), "it has ended") {
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
	for code, w := range map[int32]*world{2: p.ends, 137: p.stopped} {
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
	again := p.world(p.t)
	again.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start, (*world).exec, (*world).stopPod, (*world).removePod)})
	if p.PID() != p.daemon {
		p.t.Error("the daemon was started anew")
	}
}

func (p *poor) clear(clean nodetest.Snapshot) {
	p.t.Helper()
	for _, w := range []*world{p.ends, p.stopped, p.idling} {
		if err := errors.Join(w.stopPod(), w.removePod()); err != nil {
			p.t.Error(err)
		}
	}
	p.Node.AwaitSame(p.t, clean, "after the pods' removal")
}

// TestRootStopsAtAnError lets the file system of root come upon an error, which
// is how one becomes read-only while files on it are open. There is no way back
// but to mount another: what ran is torn down, and the node serves.
func TestRootStopsAtAnError(t *testing.T) {
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("no ext4 that can be made to stop: mkfs.ext4 is not installed")
	}
	s, image := &disk{}, filepath.Join(t.TempDir(), "image")
	err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 96<<20))
	if out, mkfs := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); mkfs != nil {
		err = errors.Join(err, fmt.Errorf("%w: %s", mkfs, out))
	}
	if err != nil {
		t.Fatal(err)
	}
	probe := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, probe).CombinedOutput(); err != nil {
		t.Skipf("no ext4 that can be made to stop: mount: %s", out)
	}
	unix.Unmount(probe, 0)
	n := s.node(t, func(root string) error { return exec.Command("mount", "-o", "loop", image, root).Run() })
	warm(t, n.Node)
	p, running := n.poor(t), n.world(t)
	running.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start)})
	if out, err := exec.Command("mount", "-o", "remount,abort", s.root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.endures("read-only")
	if err := errors.Join(n.Kill(), unix.Unmount(s.root, unix.MNT_DETACH), n.Up(t.Context())); err != nil {
		t.Fatal(err)
	}
	n.AwaitImage(n.t, nodetest.TestImage)
	w := n.world(t)
	w.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start, (*world).stopPod, (*world).removePod)})
	nodetest.Eventually(t, 10*time.Second, "nothing is left of the pods whose records are lost", func() bool {
		return n.Remains() == nil
	})
	if strings.Contains(n.Log(), "recovery is not complete") {
		t.Error("recovery stopped at what has no record")
	}
}
