// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

const dropped = state.Phase("dropped")

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// Every cell of the table, with a real monitor in that state: what the record is
// in the end, and whether the program runs.
func TestRecover(t *testing.T) {
	fakeruntime.Require(t)
	type end struct {
		phase state.Phase
		runs  bool
	}
	gone, created := end{dropped, false}, end{state.Created, false}
	running, exited := end{state.Running, true}, end{state.Exited, false}
	for phase, row := range map[state.Phase][4]end{ // columns: runs, launching, ended, gone
		state.Creating: {gone, gone, gone, gone},
		state.Created:  {{state.Created, true}, {state.Created, true}, exited, created},
		state.Starting: {running, running, exited, created},
		state.Running:  {running, running, exited, exited},
		state.Exited:   {{state.Exited, true}, {state.Exited, true}, exited, exited},
		state.Removing: {gone, gone, gone, gone},
	} {
		for i, fate := range []container.Fate{container.Runs, container.Launching, container.Ended, container.Gone} {
			t.Run(fmt.Sprintf("%s, %s", phase, fate), func(t *testing.T) {
				t.Parallel()
				w := &world{t: t, node: fakeruntime.New(t)}
				w.up()
				w.recovers(phase, fate, row[i].phase, row[i].runs)
			})
		}
	}
}

// recovers brings a record and the monitor into a state, and holds what recovery
// makes of it.
func (w *world) recovers(phase state.Phase, fate container.Fate, want state.Phase, runs bool) {
	t := w.t
	id := w.record(phase)
	launched := w.bring(id, fate)
	pid := 0
	if fate == container.Runs {
		pid = <-launched
	}
	rest, err := w.Recover(t.Context(), w.get(id), fate, pid)
	w.must(err)
	w.recordExits()
	if rest != nil {
		w.must(rest(t.Context()))
	}
	if want == dropped {
		w.gone(id)
	} else if c := w.d.Reaches(id, want); c.Phase == state.Running && fate == container.Runs && phase == state.Starting && c.PID != pid {
		t.Errorf("process %d, want %d", c.PID, pid)
	} else if fate == container.Gone && phase == state.Running && (c.ExitCode != 255 || c.Reason != "Unknown" || c.Message == "") {
		t.Errorf("nobody saw how it ended: %+v", c)
	}
	if fate == container.Launching {
		pid = <-launched
	}
	if pid != 0 && alive(pid) != runs {
		t.Errorf("its process runs: %v, want %v", !runs, runs)
	}
}

// bring makes the monitor know of a container what fate says. The channel tells
// the pid of what was launched, once it is.
func (w *world) bring(id state.ContainerID, fate container.Fate) <-chan int {
	w.t.Helper()
	script, launched := fakeruntime.Sleeper, make(chan int, 1)
	switch fate {
	case container.Gone:
		return nil
	case container.Ended:
		script = "#!/bin/sh\nexit 5\n"
	case container.Launching:
		w.node.Fault("run", fakeruntime.Slow)
	}
	go func() {
		pid, _ := w.program(context.Background(), id, script)
		launched <- pid
	}()
	w.node.Eventually("the monitor knows of it", func() bool {
		if fate == container.Ended {
			return len(w.Monitor.Ended()) == 1
		}
		watched, err := w.Monitor.List(w.t.Context())
		return err == nil && len(watched) == 1 && (watched[0].Pid == 0) == (fate == container.Launching)
	})
	return launched
}

// After a restart of the machine nothing that ran can run, and the record says why.
func TestReboot(t *testing.T) {
	w := newWorld(t)
	id := w.record(state.Running)
	w.d.End()
	w.must(os.WriteFile(filepath.Join(w.Layout.Records(), "boot"), []byte("an earlier one\n"), 0o600))
	w.connect()
	_, err := w.Recover(t.Context(), w.get(id), container.Gone, 0)
	w.must(err)
	if c := w.get(id); c.Reason != "NodeRebooted" || c.ExitCode != 255 || c.Message == "" {
		t.Errorf("%+v", c)
	}
}

// A daemon that dies in a start, wherever, leaves what the next one makes whole:
// the program runs and is adopted, or the start never happened.
func TestCrashInAStart(t *testing.T) {
	w := newCreator(t)
	places := w.d.Places("start container", func() { w.start(sleeper) })
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			id := w.create(sleeper)
			w.d.At("start container", place, func() error { w.d.Die(); return errInjected })
			if err := w.Start(t.Context(), id); err == nil {
				t.Error("started by a daemon that is dead")
			}
			w.d.Crash()
			w.connect()
			fate, pid := container.Gone, 0
			watched, err := w.Monitor.List(t.Context())
			w.must(err)
			for _, r := range watched {
				if r.ID == string(id) {
					fate, pid = container.Runs, r.Pid
				}
			}
			rest, err := w.Recover(t.Context(), w.get(id), fate, pid)
			w.must(err)
			if rest != nil {
				w.must(rest(t.Context()))
			}
			if c := w.get(id); (c.Phase == state.Running) != (fate == container.Runs) || c.PID != pid || c.Phase != state.Running && c.Phase != state.Created {
				t.Errorf("%s, process %d of %s %d", c.Phase, c.PID, fate, pid)
			}
			w.must(w.Remove(t.Context(), id))
			w.gone(id)
		})
	}
}

// Exits that happened while there was no daemon, or no disk, come to be known.
func TestExitsArriveLate(t *testing.T) {
	w := newCreator(t)
	id, other := w.start("exit 9"), w.start(sleeper)
	w.ended(id)
	w.d.Crash()
	w.must(syscall.Kill(w.get(other).PID, syscall.SIGKILL))
	w.connect()
	if c := w.ended(other); c.ExitCode != 137 || c.Reason != "Error" {
		t.Errorf("%+v", c)
	}
	third := w.start(sleeper)
	away := w.Layout.Records() + ".away"
	w.must(os.Rename(w.Layout.Records(), away))
	began := time.Now()
	if err := w.Stop(t.Context(), third, 0); err == nil || time.Since(began) > patience/4 {
		t.Errorf("stop that cannot be recorded: %v after %s", err, time.Since(began))
	}
	if err := w.Stop(t.Context(), third, time.Minute); err == nil {
		t.Error("stopped, and nobody may say so")
	}
	w.must(os.Rename(away, w.Layout.Records()))
	if c := w.ended(third); c.ExitCode != 137 {
		t.Errorf("%+v", c)
	}
}
