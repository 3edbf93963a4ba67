// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

// dying makes the daemon die where an operation passes a place.
func (w *world) dying(operation, place string) {
	w.d.At(operation, place, func() error { w.d.Die(); return errInjected })
}

// A daemon that dies in a run, wherever, leaves nothing once the next one has
// recovered, and the same request again works.
func TestCrashInARun(t *testing.T) {
	w := newWorld(t)
	in := w.request()
	places := w.d.Places("run ", func() {
		id, err := w.Run(t.Context(), in)
		w.must(err)
		w.must(w.Remove(t.Context(), id))
	})
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			w.dying("run ", place)
			if id, err := w.Run(t.Context(), in); err == nil {
				t.Errorf("a daemon that is dead runs pod %s", id)
			}
			w.d.Crash()
			w.connect()
			w.recovered()
			if place == "record pod after" {
				if pods, _ := w.Store.Count(); pods != 1 {
					t.Errorf("%d pods", pods)
				}
			} else {
				w.clean()
			}
			id, err := w.Run(t.Context(), in)
			w.must(err)
			w.must(w.Remove(t.Context(), id))
			w.clean()
		})
	}
}

// One that dies in a removal has it finished by the next one.
func TestCrashInARemoval(t *testing.T) {
	w := newWorld(t)
	remove := func() (state.PodID, error) {
		id := w.run()
		w.start(id)
		return id, w.Remove(t.Context(), id)
	}
	places := w.d.Places("remove pod", func() { _, err := remove(); w.must(err) })
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			w.dying("remove pod", place)
			if _, err := remove(); err == nil {
				t.Error("removed by a daemon that is dead")
			}
			w.d.Crash()
			w.connect()
			w.recovered()
			w.clean()
		})
	}
}

// Every cell of the table, with a real monitor in that state.
func TestRecover(t *testing.T) {
	fakeruntime.Require(t)
	const dropped = state.PodPhase("dropped")
	for phase, row := range map[state.PodPhase][4]state.PodPhase{ // columns: runs, launching, ended, gone
		state.PodCreating: {dropped, dropped, dropped, dropped},
		state.PodReady:    {state.PodReady, state.PodReady, state.PodNotReady, state.PodNotReady},
		state.PodNotReady: {state.PodNotReady, state.PodNotReady, state.PodNotReady, state.PodNotReady},
		state.PodRemoving: {dropped, dropped, dropped, dropped},
	} {
		for i, fate := range []container.Fate{container.Runs, container.Launching, container.Ended, container.Gone} {
			t.Run(fmt.Sprintf("%s, %s", phase, fate), func(t *testing.T) {
				t.Parallel()
				w := &world{t: t, node: fakeruntime.New(t)}
				w.up()
				id, c := w.bring(phase, fate)
				w.must(w.Recover(t.Context()))
				w.d.Go(w.RunExits)
				w.recovered()
				if row[i] == dropped {
					w.node.Eventually("nothing is left", func() bool { return len(w.left()) == 0 })
					return
				}
				w.node.Eventually("the pod is "+string(row[i]), func() bool { return w.get(id).Phase == row[i] })
				if row[i] == state.PodNotReady {
					w.d.Reaches(c, state.Exited)
				} else if got, err := w.Store.Container(string(c)); err != nil || got.Phase != state.Running {
					t.Errorf("its container is %s, %v", got.Phase, err)
				}
				if p := w.get(id); phase == state.PodReady && fate == container.Gone && (p.Reason != "PauseExited" || p.Message == "") {
					t.Errorf("%+v", p)
				}
			})
		}
	}
}

// bring records a pod in a phase and makes the monitor know of its pause what
// fate says. The pod is one that was run, and stays so in the kernel.
func (w *world) bring(phase state.PodPhase, fate container.Fate) (state.PodID, state.ContainerID) {
	w.t.Helper()
	p, _, err := w.Store.BeginPod(state.Pod{
		ID: state.PodID(state.NewID()), Config: w.hostRequest().Config, PausePID: os.Getpid(), CreatedAt: time.Now(),
	})
	w.must(err)
	if phase == state.PodCreating {
		w.pause(p.ID, fate)
		return p.ID, ""
	}
	_, err = w.Store.MovePod(p.ID, state.PodUp, func(p *state.Pod) { p.CgroupParent = "/cri-" + string(p.ID) })
	w.must(err)
	w.must(errors.Join(os.MkdirAll(w.Layout.PodFiles(p.ID), 0o700)))
	c := w.start(p.ID)
	for _, e := range map[state.PodPhase][]state.PodEvent{state.PodNotReady: {state.PodDown}, state.PodRemoving: {state.PodRemove}}[phase] {
		_, err = w.Store.MovePod(p.ID, e, nil)
		w.must(err)
	}
	w.pause(p.ID, fate)
	return p.ID, c
}

// pause launches a program in place of a pod's pause.
func (w *world) pause(id state.PodID, fate container.Fate) {
	w.t.Helper()
	if fate == container.Gone {
		return
	}
	script := fakeruntime.Sleeper
	if fate == container.Ended {
		script = "#!/bin/sh\nexit 5\n"
	}
	w.node.Write("pause/pause", script)
	w.must(w.Runtime.WriteBundle(string(id), &specs.Spec{
		Process: &specs.Process{Args: []string{"/pause"}}, Root: &specs.Root{Path: filepath.Join(w.node.Dir, "pause")}, Linux: &specs.Linux{},
	}))
	if fate == container.Launching {
		w.node.Fault("run", fakeruntime.Slow)
	}
	go func() { _, _ = w.Runtime.Launch(context.Background(), runc.Launch{ID: string(id)}) }()
	w.node.Eventually("the monitor knows of pause", func() bool {
		if fate == container.Ended {
			return slices.Contains(w.Monitor.Ended(), string(id))
		}
		watched, err := w.Monitor.List(w.t.Context())
		return err == nil && slices.ContainsFunc(watched, func(r monitor.Running) bool {
			return r.ID == string(id) && (r.Pid == 0) == (fate == container.Launching)
		})
	})
}

// A pause that ends takes its pod's containers with it, and the pod says so.
func TestPauseDies(t *testing.T) {
	w := newWorld(t)
	for how, kill := range map[string]syscall.Signal{"was killed by signal 9": syscall.SIGKILL, "was killed by signal 15": syscall.SIGTERM} {
		id := w.run()
		c := w.start(id)
		w.must(syscall.Kill(w.get(id).PausePID, kill))
		w.d.Reaches(c, state.Exited)
		if p := w.get(id); p.Phase != state.PodNotReady || p.Reason != "PauseExited" || !strings.Contains(p.Message, how) || p.PausePID != 0 {
			t.Errorf("%+v", p)
		}
		w.must(w.Remove(t.Context(), id))
	}
	w.clean()
	if err := w.Died(t.Context(), state.PodID(state.NewID()), "ended"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// A pause that ends before its pod is ready makes the run fail, which says so and
// leaves nothing; one that ends right after makes the pod not ready.
func TestPauseDiesInARun(t *testing.T) {
	w := newWorld(t)
	kill := func() error {
		watched, err := w.Monitor.List(t.Context())
		if err != nil || len(watched) != 1 {
			return fmt.Errorf("pause to kill among %v: %w", watched, err)
		}
		err = w.Monitor.Kill(t.Context(), watched[0].ID)
		w.node.Eventually("its exit is recorded", func() bool { return len(w.Monitor.Ended()) == 0 })
		return err
	}
	for _, place := range []string{"pause runs within", "write hosts file before", "record pod before"} {
		w.d.At("run ", place, kill)
		if id, err := w.Run(t.Context(), w.request()); err == nil || !strings.Contains(err.Error(), "the pause process was killed by signal 9") {
			t.Errorf("%s: %q, %v", place, id, err)
		}
		w.clean()
	}
	w.d.At("run ", "record pod after", kill)
	id, err := w.Run(t.Context(), w.request())
	w.must(err)
	if p := w.get(id); p.Phase != state.PodNotReady || p.Reason != "PauseExited" {
		t.Errorf("%+v", p)
	}
	w.must(w.Remove(t.Context(), id))
	w.clean()
}

// So does one that the next monitor knows nothing of: the pod is not ready, or its
// run fails.
func TestPauseIsLostInARun(t *testing.T) {
	w := newWorld(t)
	w.d.At("run ", "pause runs within", func() error {
		watched, err := w.Monitor.List(t.Context())
		if err != nil || len(watched) != 1 {
			return fmt.Errorf("pause to lose among %v: %w", watched, err)
		}
		w.d.LoseMonitor()
		err = os.RemoveAll(filepath.Join(w.Layout.Monitor(), watched[0].ID))
		w.node.StartMonitor()
		w.d.AwaitMonitor()
		return err
	})
	if id, err := w.Run(t.Context(), w.request()); err == nil {
		w.node.Eventually("the pod is not ready", func() bool { return w.get(id).Phase == state.PodNotReady })
		w.must(w.Remove(t.Context(), id))
	} else if !strings.Contains(err.Error(), "the pause process ended while no monitor watched it") {
		t.Error(err)
	}
	w.clean()
}

// Another monitor tells what has ended while there was none, and what it does not
// know of has ended as well.
func TestMonitorIsReplaced(t *testing.T) {
	w := newWorld(t)
	lives, dies, lost := w.run(), w.run(), w.run()
	stays, ends := w.start(lives), w.start(lives)
	gone, err := w.Store.Container(string(ends))
	w.must(err)
	w.d.LoseMonitor()
	w.must(errors.Join(syscall.Kill(w.get(dies).PausePID, syscall.SIGKILL), syscall.Kill(gone.PID, syscall.SIGKILL),
		os.RemoveAll(filepath.Join(w.Layout.Monitor(), string(lost)))))
	w.node.StartMonitor()
	w.d.AwaitMonitor()
	for _, id := range []state.PodID{dies, lost} {
		w.node.Eventually("the pod is not ready", func() bool { return w.get(id).Phase == state.PodNotReady })
	}
	w.d.Reaches(ends, state.Exited)
	if c, err := w.Store.Container(string(stays)); err != nil || c.Phase != state.Running || w.get(lives).Phase != state.PodReady {
		t.Errorf("what runs on: %s, %v; its pod is %s", c.Phase, err, w.get(lives).Phase)
	}
	w.must(errors.Join(w.Remove(t.Context(), lives), w.Remove(t.Context(), dies), w.Remove(t.Context(), lost)))
	w.clean()
}

// What has no record is swept by the next daemon, as soon as the plugin lets it.
func TestOrphansAreSwept(t *testing.T) {
	w := newWorld(t)
	pod, other := w.run(), w.run()
	c := w.start(pod)
	w.must(errors.Join(w.Store.DropPod(pod), w.Store.DropPod(other), w.Store.DropContainer(c)))
	kept := w.run()
	w.d.Crash()
	w.connect()
	w.recovered()
	w.must(w.Remove(t.Context(), kept))
	w.clean()
	w.must(w.CollectNetwork(t.Context()))
}

// What is left of a pod whose record is lost is swept, each trace alone, and
// nothing of another daemon's.
func TestEveryTraceIsSwept(t *testing.T) {
	w := newWorld(t)
	w.recovered() // its sweep is over
	attached, none := w.run(), state.PodID(state.NewID())
	record := filepath.Join(w.Layout.CNICache(), "attachments", string(attached)+".json")
	attachment, err := os.ReadFile(record)
	w.must(err)
	w.must(w.Remove(t.Context(), attached))
	other := state.Layout{Root: filepath.Join(w.node.Dir, "other")}.NetNS(none)
	t.Cleanup(func() { _ = netns.Remove(other) })
	// As a daemon leaves them that is killed while it holds the lock of what is gone.
	locks := []string{filepath.Join(w.Layout.RuntimeLocks(), state.NewID()), filepath.Join(w.Layout.CNILocks(), state.NewID())}
	for _, lock := range locks {
		w.must(errors.Join(os.MkdirAll(filepath.Dir(lock), 0o700), os.WriteFile(lock, nil, 0o600)))
	}
	w.must(errors.Join(
		os.WriteFile(record, attachment, 0o600),
		netns.New(w.Layout.NetNS(attached)), netns.New(w.Layout.NetNS(none)), netns.New(other),
		os.MkdirAll(w.Layout.UserNamespaces(), 0o700), os.WriteFile(w.Layout.UserNS(state.PodID(state.NewID())), nil, 0o600),
	))
	w.d.Crash()
	w.connect()
	w.recovered()
	w.clean()
	for _, lock := range locks {
		if _, err := os.Lstat(lock); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("lock %s: %v", lock, err)
		}
	}
	if !netns.Is(other) {
		t.Error("another daemon's namespace is gone")
	}
}

// The namespace of an orphan whose CNI DEL fails is there for the next attempt:
// nothing else may say that the pod had a network.
func TestSweepKeepsTheNamespaceForDel(t *testing.T) {
	w := newWorld(t)
	id := w.run()
	w.must(errors.Join(w.Store.DropPod(id), os.RemoveAll(w.Layout.CNICache())))
	w.node.Write("bin/fake-plugin", `#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = DEL ] || exit 0
echo "$CNI_NETNS" >>`+w.node.Dir+`/dels
[ "$(wc -l <`+w.node.Dir+`/dels)" -gt 1 ] || { echo '{"cniVersion":"1.0.0","code":999,"msg":"refused by the test"}' && exit 1; }
`)
	w.d.Crash()
	w.connect()
	w.recovered()
	w.clean()
	dels, err := os.ReadFile(filepath.Join(w.node.Dir, "dels"))
	w.must(err)
	if path := w.Layout.NetNS(id) + "\n"; string(dels) != strings.Repeat(path, 2) {
		t.Errorf("DEL was called with namespaces %q, want %q each time", dels, path)
	}
}
