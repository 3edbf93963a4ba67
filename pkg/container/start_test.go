// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

// A runtime that does not start the program costs the container its one start, and
// leaves no process.
func TestStartErrors(t *testing.T) {
	w := newCreator(t)
	for _, kind := range []fakeruntime.Kind{fakeruntime.Fail, fakeruntime.Half} {
		t.Run(string(kind), func(t *testing.T) {
			id := w.create(sleeper)
			w.node.Fault("run", kind)
			err := w.Start(t.Context(), id)
			c := w.get(id)
			if err == nil || c.Phase != state.Exited || c.ExitCode != 128 || c.Reason != "StartError" || c.Message == "" || c.FinishedAt.IsZero() {
				t.Errorf("%v: %+v", err, c)
			}
			if kind == fakeruntime.Fail && !strings.Contains(c.Message, "refused by the test") {
				t.Errorf("message %q", c.Message)
			}
			if err := w.Start(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("started again: %v", err)
			}
			w.must(w.Remove(t.Context(), id))
			w.gone(id)
		})
	}
	for _, kind := range []fakeruntime.Kind{fakeruntime.NoPid, fakeruntime.Rubbish} {
		t.Run(string(kind), func(t *testing.T) { // nobody knows whether it ran: it is ended, and may be started
			id := w.create("echo >>" + filepath.Join(w.node.Dir, "begun") + "; exec sleep 1000")
			w.node.Fault("run", kind)
			if err := w.Start(t.Context(), id); err == nil || w.get(id).Phase != state.Created {
				t.Errorf("%v, container is %s", err, w.get(id).Phase)
			}
			w.must(w.Start(t.Context(), id))
			w.must(w.Remove(t.Context(), id))
			w.gone(id)
		})
	}
	t.Run("missing", func(t *testing.T) {
		id, runtime := w.create(sleeper), filepath.Join(w.node.Dir, "runtime")
		w.must(os.Rename(runtime, runtime+".away"))
		err := w.Start(t.Context(), id)
		w.must(os.Rename(runtime+".away", runtime))
		if c := w.get(id); err == nil || c.Phase != state.Exited || c.ExitCode != 128 {
			t.Errorf("%v: %+v", err, c)
		}
	})
}

// A runtime that hangs keeps its own container only, and the container is ended all
// the same.
func TestStartHangs(t *testing.T) {
	w := newCreator(t)
	id, other := w.create(sleeper), w.create(sleeper)
	w.node.Fault("run", fakeruntime.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := w.Start(ctx, id); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"run container"`) {
		t.Errorf("start: %v", err)
	}
	w.must(w.Start(t.Context(), other))
	limited, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if err := w.Stop(limited, id, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop of what is being started: %v", err)
	}
	_ = w.Monitor.Signal(t.Context(), string(id), 9) // ends the launch; there is nothing else to signal
	w.node.Eventually("the start is over", func() bool { return w.get(id).Phase != state.Starting })
	w.must(w.Remove(t.Context(), id))
	w.gone(id)
}

// Starts side by side are one; a second start is refused.
func TestStartsJoin(t *testing.T) {
	w := newCreator(t)
	id := w.create(sleeper)
	w.node.Fault("run", fakeruntime.Slow)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := w.Start(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(w.node.Calls("run")); n != 1 || w.get(id).Phase != state.Running {
		t.Errorf("%d runs; %s", n, w.get(id).Phase)
	}
	if err := w.Start(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start of what runs: %v", err)
	}
	if err := w.Start(t.Context(), state.ContainerID(state.NewID())); !errdefs.IsNotFound(err) {
		t.Errorf("start of nothing: %v", err)
	}
	down := w.create(sleeper)
	_, err := w.Store.MovePod(w.get(down).Pod, state.PodDown, nil)
	w.must(err)
	if err := w.Start(t.Context(), down); !errdefs.IsFailedPrecondition(err) || w.get(down).Phase != state.Created {
		t.Errorf("start in a pod that is down: %v", err)
	}
}

// A start that fails at any other step is one that never happened.
func TestStartIsWithdrawn(t *testing.T) {
	w := newCreator(t)
	id := w.create(sleeper)
	for _, place := range []string{"ask plugins before", "mount root filesystem after", "make log directory before", "run container before"} {
		w.failAt("start container", place)
		if err := w.Start(t.Context(), id); !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", place, err)
		}
		if c := w.get(id); c.Phase != state.Created || !c.StartedAt.IsZero() {
			t.Errorf("%s: %+v", place, c)
		}
	}
	w.must(w.Start(t.Context(), id))
}

// A start that worked and cannot be booked is undone, and what ran is an exit.
func TestStartThatCannotBeBooked(t *testing.T) {
	w := newCreator(t)
	id := w.create(sleeper)
	w.failAt("start container", "run container after")
	if err := w.Start(t.Context(), id); !errors.Is(err, errInjected) {
		t.Error(err)
	}
	if c := w.ended(id); c.ExitCode != 137 {
		t.Errorf("%+v", c)
	}
	again := w.create(sleeper)
	away := w.Layout.Records() + ".away"
	w.d.At("start container", "run container after", func() error { return os.Rename(w.Layout.Records(), away) })
	if err := w.Start(t.Context(), again); !errors.Is(err, os.ErrNotExist) || w.get(again).Phase != state.Starting {
		t.Errorf("%v, %s", err, w.get(again).Phase)
	}
	w.must(os.Rename(away, w.Layout.Records()))
	if c := w.ended(again); c.ExitCode != 137 {
		t.Errorf("%+v", c)
	}
}

// A launch that the monitor's end cut off is undone once there is a monitor, or
// adopted by a start that comes first.
func TestMonitorEndsInAStart(t *testing.T) {
	w := newCreator(t)
	id := w.create(sleeper)
	w.d.At("start container", "run container before", func() error { w.d.LoseMonitor(); return nil })
	if err := w.Start(t.Context(), id); !errdefs.IsUnavailable(err) {
		t.Errorf("start without a monitor: %v", err)
	}
	w.node.StartMonitor()
	w.d.Reaches(id, state.Created)
	w.must(w.Start(t.Context(), id))
	running := w.record(state.Starting)
	pid, err := w.program(t.Context(), running, fakeruntime.Sleeper)
	w.must(err)
	if err := w.Start(t.Context(), running); err != nil || w.get(running).PID != pid {
		t.Errorf("start of what runs already: %v, %+v", err, w.get(running))
	}
}
