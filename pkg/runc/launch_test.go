// SPDX-License-Identifier: Apache-2.0

package runc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

func TestMain(m *testing.M) { os.Exit(fakeruntime.Main(m)) }

// world is a node with a fake runtime, and the bundle of one container on it.
type world struct {
	*runc.Service
	t    *testing.T
	node *fakeruntime.Node
	d    *fakeruntime.Daemon
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, node: fakeruntime.New(t)}
	w.d = w.node.Up()
	w.Service = w.d.Runtime
	w.node.Write("root/program", fakeruntime.Sleeper)
	w.must(w.WriteBundle(id, &specs.Spec{
		Process: &specs.Process{Args: []string{"/program"}}, Root: &specs.Root{Path: filepath.Join(w.node.Dir, "root")}, Linux: &specs.Linux{},
	}))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) launch(ctx context.Context, l runc.Launch) (monitor.Launched, error) {
	launched, err := w.Launch(ctx, l)
	if err == nil {
		w.t.Cleanup(func() { _ = syscall.Kill(launched.Pid, syscall.SIGKILL) })
	}
	return launched, err
}

// Each verb has one command line, which README promises to runtimes.
func TestCommandLines(t *testing.T) {
	w := newWorld(t)
	_, err := w.launch(t.Context(), runc.Launch{ID: id})
	w.must(err)
	p, err := w.Exec(t.Context(), runc.Exec{ID: id, Process: &specs.Process{Args: []string{"/bin/true"}}})
	w.must(err)
	_, err = p.Wait(t.Context())
	w.must(err)
	w.must(w.Update(t.Context(), "", id, &specs.LinuxResources{}))
	w.must(w.Delete(t.Context(), "", id))
	features, err := w.Features(t.Context(), "fake")
	if err != nil || !slices.Contains(features.MountOptions, "rro") {
		t.Errorf("features %+v, %v", features, err)
	}
	root, bundle := "--root "+w.node.Layout.RuntimeRoot("fake"), w.node.Layout.Bundle(id)
	short := root + " --log /dev/stderr --log-format json "
	for verb, want := range map[string]string{
		"run":      root + " --log " + bundle + "/runtime.log --log-format json run --detach --bundle " + bundle + " --pid-file " + bundle + "/init.pid " + id,
		"update":   short + "update --resources - " + id,
		"delete":   short + "delete " + id,
		"features": short + "features",
	} {
		if got := w.node.Calls(verb); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %q", verb, got, want)
		}
	}
	got := w.node.Calls("exec")[0]
	if !strings.Contains(got, "--log-format json exec --detach --pid-file "+bundle+"/exec-") || !strings.Contains(got, "/process.json "+id) {
		t.Errorf("exec: %q", got)
	}
	if err := w.Delete(t.Context(), "", id); err != nil || len(w.node.Calls("delete")) != 1 {
		t.Errorf("delete of what is gone: %v, calls %q", err, w.node.Calls("delete"))
	}
}

// A launch that goes wrong says how, in the runtime's own words where it has some,
// and leaves no process.
func TestLaunchFaults(t *testing.T) {
	w := newWorld(t)
	for kind, want := range map[fakeruntime.Kind]string{
		fakeruntime.Fail: "refused by the test", fakeruntime.Absent: "container does not exist",
		fakeruntime.Half: "runtime: ", fakeruntime.NoPid: "read pid file", fakeruntime.Rubbish: "no pid in it",
	} {
		w.node.Fault("run", kind)
		_, err := w.launch(t.Context(), runc.Launch{ID: id})
		var failed *monitor.LaunchError
		asked := kind != fakeruntime.NoPid && kind != fakeruntime.Rubbish
		if err == nil || !strings.Contains(err.Error(), want) || errors.As(err, &failed) != asked {
			t.Errorf("%s: %v", kind, err)
		}
	}
	w.node.Fault("run", fakeruntime.Fail)
	if _, err := w.launch(t.Context(), runc.Launch{ID: id}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("class of %v", err)
	}
	w.node.Fault("run", fakeruntime.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := w.launch(ctx, runc.Launch{ID: id}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
	if _, err := w.launch(t.Context(), runc.Launch{ID: id, Handler: "none"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no such handler: %v", err)
	}
	w.node.Eventually("no launch is under way", func() bool {
		watched, err := w.d.Monitor.List(t.Context())
		return err == nil && len(watched) == 0
	})
	w.d.LoseMonitor()
	if _, err := w.launch(t.Context(), runc.Launch{ID: id}); !errdefs.IsUnavailable(err) {
		t.Errorf("without a monitor: %v", err)
	}
}

// A command that hangs is killed when its time is up, and the next one is not held
// up; one that an earlier daemon left running is waited for.
func TestCommandsHang(t *testing.T) {
	w := newWorld(t)
	_, err := w.launch(t.Context(), runc.Launch{ID: id})
	w.must(err)
	for verb, call := range map[string]func(context.Context) error{
		"update":   func(ctx context.Context) error { return w.Update(ctx, "", id, &specs.LinuxResources{}) },
		"delete":   func(ctx context.Context) error { return w.Delete(ctx, "", id) },
		"features": func(ctx context.Context) error { _, err := w.Features(ctx, ""); return err },
	} {
		w.node.Fault(verb, fakeruntime.Hang)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", verb, err)
		}
		cancel()
		if len(w.node.Calls(verb)) != 1 {
			t.Errorf("%s was called as %q", verb, w.node.Calls(verb))
		}
	}
	w.node.Fault("update", fakeruntime.Slow)
	ctx, leave := context.WithCancel(t.Context())
	began := time.Now()
	go func() {
		w.node.Eventually("it has begun", func() bool { return len(w.node.Calls("update")) == 2 })
		leave()
	}()
	if err := w.Update(ctx, "", id, &specs.LinuxResources{}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	w.d.Crash()
	w.Service = w.node.Up().Runtime
	w.must(w.Delete(t.Context(), "", id))
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("the next command began %s after one that takes half a second", took)
	}
}

// A runtime that knows no features, or answers rubbish, says nothing of them.
func TestFeaturesAreNotKnown(t *testing.T) {
	w := newWorld(t)
	w.node.Fault("features", fakeruntime.Fail)
	if _, err := w.Features(t.Context(), ""); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	if h, err := w.Handler(""); err != nil || h.OCIVersion != "1.0.2" {
		t.Errorf("its specs name version %q (%v), want the last that has no features", h.OCIVersion, err)
	}
	if _, err := w.Features(t.Context(), "none"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	w.must(w.Check())
	w.must(os.Remove(filepath.Join(w.node.Dir, "runtime")))
	if err := w.Check(); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if _, err := w.Features(t.Context(), ""); err == nil {
		t.Error("a runtime that is missing has features")
	}
}

func TestBundle(t *testing.T) {
	w := newWorld(t)
	if ids, err := w.BundleIDs(); err != nil || !slices.Equal(ids, []string{id}) {
		t.Errorf("%q, %v", ids, err)
	}
	config := filepath.Join(w.node.Layout.Bundle(id), "config.json")
	w.must(os.WriteFile(config, []byte("{"), 0o600))
	if _, err := w.Spec(id); !errdefs.IsDataLoss(err) {
		t.Error(err)
	}
	for range 2 {
		w.must(w.RemoveBundle(id))
	}
	if _, err := w.Spec(id); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := w.Exec(t.Context(), runc.Exec{ID: id, Process: &specs.Process{}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("exec without a bundle: %v", err)
	}
	w.must(os.RemoveAll(w.node.Layout.Bundles()))
	if ids, err := w.BundleIDs(); err != nil || len(ids) != 0 {
		t.Errorf("%q, %v", ids, err)
	}
	w.must(os.WriteFile(w.node.Layout.Bundles(), nil, 0o600))
	if err := w.WriteBundle(id, &specs.Spec{}); err == nil {
		t.Error("written where no directory can be")
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []runc.Options{
		{Default: "a"},
		{Handlers: []runc.Handler{{Name: "a", Path: "a", Root: "/r"}}, Default: "a"},
		{Handlers: []runc.Handler{{Name: "a", Path: "/a", Root: "r"}}, Default: "a"},
	} {
		if _, err := runc.New(o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	s, err := runc.New(runc.Options{Handlers: []runc.Handler{{Name: "b", Path: "/b", Root: "/r"}, {Name: "a", Path: "/a", Root: "/r", Systemd: true}}, Default: "a"})
	if err != nil || s.Default() != "a" || !slices.Equal(s.Handlers(), []string{"a", "b"}) {
		t.Errorf("%+v, %v", s, err)
	}
}

// A runtime that is killed before it can say why was killed with the container, or by somebody else before there was one.
func TestMuteRuntime(t *testing.T) {
	w := newWorld(t)
	w.node.Fault("run", fakeruntime.Half)
	if _, err := w.launch(t.Context(), runc.Launch{ID: id}); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	_, err := w.launch(t.Context(), runc.Launch{ID: id})
	w.must(err)
	w.node.Fault("exec", fakeruntime.Half)
	if _, err := w.Exec(t.Context(), runc.Exec{ID: id, Process: &specs.Process{Args: []string{"/bin/true"}}}); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(w.node.Layout.Bundle(id), "exec-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	w.must(os.Mkdir(filepath.Join(w.node.Layout.Bundle(id), "exec-0"), 0o700)) // of a daemon that died
	w.must(w.RemoveExecs(id))
	if left, _ := filepath.Glob(filepath.Join(w.node.Layout.Bundle(id), "exec-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	w.must(w.Kill(t.Context(), "", id))
}

// A runtime that gives a command no oom_score_adj, as crun, hands its own down.
func TestExecScore(t *testing.T) {
	w := newWorld(t)
	_, err := w.launch(t.Context(), runc.Launch{ID: id})
	w.must(err)
	score := 700
	p, err := w.Exec(t.Context(), runc.Exec{ID: id, Process: &specs.Process{Args: []string{"/bin/sleep", "1000"}, OOMScoreAdj: &score}})
	w.must(err)
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.Pid)); err != nil || string(got) != "700\n" {
		t.Errorf("the command has %q (%v)", got, err)
	}
	w.must(syscall.Kill(p.Pid, syscall.SIGKILL))
	_, err = p.Wait(t.Context())
	w.must(err)
	w.must(w.Kill(t.Context(), "", id))
}
