// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

// counter writes a line for each stop signal and goes on; orderly ends with 0
// at the first.
func (w *world) counter(end string) (script, ready, told string) {
	ready, told = filepath.Join(w.node.Dir, "ready"), filepath.Join(w.node.Dir, "told")
	fifo := filepath.Join(w.node.Dir, "fifo")
	return "#!/bin/sh\nmkfifo " + fifo + "\nexec 3<>" + fifo + "\ntrap 'echo TERM >>" + told + "; " + end + "' TERM\n" +
		"echo >" + ready + "\nwhile :; do read x <&3; done\n", ready, told
}

// A monitor that is away when the stop signal is due does not cost the container
// its orderly end: the next Stop sends it.
func TestStopSignalThatFailedIsSentAgain(t *testing.T) {
	w := newWorld(t)
	script, ready, told := w.counter("exit 0")
	id := w.launch(script)
	w.await(ready, 1)
	w.d.LoseMonitor()
	for range 2 {
		if err := w.Stop(t.Context(), id, time.Minute); !errdefs.IsUnavailable(err) {
			t.Fatalf("stop without a monitor: %v, want unavailable", err)
		}
	}
	w.node.StartMonitor()
	w.d.AwaitMonitor()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.Stop(ctx, id, time.Minute); err != nil {
		t.Fatal(err)
	}
	if c, err := w.Store.Container(string(id)); err != nil || c.Phase != state.Exited || lines(told) != 1 {
		t.Errorf("%+v, %v; %d signals", c, err, lines(told))
	}
}

// The stop signal is sent once: by Stops side by side, by one whose caller gives
// up, and by those of the next daemon.
func TestStopSignalIsSentOnce(t *testing.T) {
	w := newWorld(t)
	script, ready, told := w.counter(":")
	id := w.launch(script)
	w.await(ready, 1)
	stops := func() {
		t.Helper()
		var g sync.WaitGroup
		for range 4 {
			g.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				if err := w.Stop(ctx, id, time.Hour); err == nil {
					t.Error("stopped what does not end")
				}
			})
		}
		g.Wait()
	}
	stops()
	w.await(told, 1)
	stops()
	w.connect() // the next daemon
	stops()
	if n := lines(told); n != 1 {
		t.Errorf("%d stop signals", n)
	}
	if err := w.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if n := lines(told); n != 1 {
		t.Errorf("%d stop signals after the kill", n)
	}
}

// Nothing that repeats an attempt outlives the daemon's end.
func TestUndoneStartEndsWithTheDaemon(t *testing.T) {
	w := newCreator(t)
	id := w.create(sleeper)
	w.d.At("start container", "run container before", func() error { w.d.LoseMonitor(); return nil })
	if err := w.Start(t.Context(), id); !errdefs.IsUnavailable(err) || w.get(id).Phase != state.Starting {
		t.Fatalf("start without a monitor: %v, container is %s", err, w.get(id).Phase)
	}
	ended := make(chan struct{})
	go func() { w.d.End(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("it goes on after the daemon's end")
	}
}

// A container that the monitor does not know of has ended, as far as anybody can
// know: a Stop records that, and does not wait for an exit that never comes.
func TestStopOfALostContainer(t *testing.T) {
	w := newWorld(t)
	id := w.launch(fakeruntime.Sleeper)
	w.d.LoseMonitor()
	if err := os.RemoveAll(filepath.Join(w.Layout.Monitor(), string(id))); err != nil {
		t.Fatal(err)
	}
	w.node.StartMonitor()
	w.d.AwaitMonitor()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := w.Stop(ctx, id, 0); err != nil {
		t.Fatal(err)
	}
	if c, err := w.Store.Container(string(id)); err != nil || c.Phase != state.Exited || c.ExitCode != 255 || c.Reason != "Unknown" {
		t.Errorf("%+v, %v", c, err)
	}
}
