// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/monitor/parent"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/leak"
)

// The test binary is also the monitor: a real one, that a test ends and starts.
func TestMain(m *testing.M) {
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	if dir, ok := os.LookupEnv(monitorDir); ok {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := parent.Run(ctx, parent.Options{
			Dir: filepath.Join(dir, "monitor"), Socket: filepath.Join(dir, "sock"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(leak.Run(m))
}

const monitorDir = "CRI_TEST_MONITOR_DIR"

// runtimeScript stands in for runc, to run programs where nothing can be
// mounted: run starts the bundle's program, delete does nothing.
const runtimeScript = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	--bundle) bundle=$2; shift ;;
	--pid-file) pidfile=$2; shift ;;
	run | delete) verb=$1 ;;
	esac
	shift
done
[ "$verb" = run ] || exit 0
"$bundle/program" &
echo $! >"$pidfile"
`

// world is a service with a real store and a real monitor.
type world struct {
	*Service
	t       *testing.T
	dir     string
	monitor *exec.Cmd
	end     func() // the daemon's
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri-c-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, end: func() {}}
	w.write("runtime", runtimeScript)
	w.startMonitor()
	w.connect()
	return w
}

func (w *world) write(name, script string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// connect makes the service of one daemon, after the end of the one before.
func (w *world) connect() {
	w.t.Helper()
	w.end()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(w.t.Output(), nil))
	layout := state.Layout{Root: filepath.Join(w.dir, "root"), State: filepath.Join(w.dir, "state")}
	store, err := state.Open(layout, "boot", log)
	if err != nil {
		w.t.Fatal(err)
	}
	client := monitor.NewClient(monitor.ClientOptions{Socket: filepath.Join(w.dir, "sock"), Log: log})
	runtime, err := runc.New(runc.Options{
		Handlers: []runc.Handler{{Name: "fake", Path: filepath.Join(w.dir, "runtime"), Root: filepath.Join(w.dir, "runtime-root")}},
		Default:  "fake", Bundles: layout.Bundles(), Locks: layout.RuntimeLocks(), Monitor: client, Log: log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s := New(Options{Store: store, Ops: state.NewOps(ctx), Layout: layout, Runtime: runtime, Monitor: client, Log: log})
	w.Service = s
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	exits := make(chan struct{})
	go func() {
		defer close(exits)
		_ = client.RunExits(ctx, monitor.ExitHandler{Record: s.RecordExit, Reconcile: func(context.Context) error { return nil }})
	}()
	w.end = sync.OnceFunc(func() {
		cancel()
		<-done
		<-exits
		s.Ops.Wait(context.Background())
	})
	w.t.Cleanup(w.end)
	w.ready()
}

func (w *world) ready() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if err := w.Monitor.AwaitReady(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) startMonitor() {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), monitorDir+"="+w.dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.monitor = cmd
	w.t.Cleanup(func() { w.endMonitor(cmd) })
}

// endMonitor kills the monitor; what it parents runs on.
func (w *world) endMonitor(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// loseMonitor ends the monitor, and returns when the client knows.
func (w *world) loseMonitor() {
	w.t.Helper()
	w.endMonitor(w.monitor)
	for until := time.Now().Add(patience); w.Monitor.Ready() == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			w.t.Fatal("the client does not see that the monitor has ended")
		}
	}
}

// run brings a container of a ready pod to where its program runs. The runtime
// starts script; no file is mounted.
func (w *world) run(script string) state.ContainerID {
	w.t.Helper()
	p, _, err := w.Store.BeginPod(state.Pod{ID: state.PodID(state.NewID()), Config: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: state.NewID()}}})
	if err == nil {
		_, err = w.Store.MovePod(p.ID, state.PodUp, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	c, _, err := w.Store.BeginContainer(state.Container{
		ID: state.ContainerID(state.NewID()), Pod: p.ID, StopSignal: int32(cri.Signal_SIGNAL_SIGTERM),
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "app"}},
	})
	for _, e := range []state.Event{state.Prepared, state.Launch} {
		if err == nil {
			_, err = w.Store.MoveContainer(c.ID, e, nil)
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	bundle := w.Layout.Bundle(string(c.ID))
	w.write(strings.TrimPrefix(bundle+"/program", w.dir+"/"), script)
	launched, err := w.Runtime.Launch(w.t.Context(), runc.Launch{ID: string(c.ID)})
	if err == nil {
		_, err = w.Store.MoveContainer(c.ID, state.Run, func(c *state.Container) { c.PID = launched.Pid })
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = syscall.Kill(launched.Pid, syscall.SIGKILL) })
	return c.ID
}

// patience is how long what must happen may take.
const patience = 20 * time.Second

// await waits until a file has n lines.
func (w *world) await(path string, n int) {
	w.t.Helper()
	for until := time.Now().Add(patience); lines(path) < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			w.t.Fatalf("%s has %d lines, want %d", path, lines(path), n)
		}
	}
}

func lines(path string) int {
	data, _ := os.ReadFile(path)
	return strings.Count(string(data), "\n")
}
