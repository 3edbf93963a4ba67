// SPDX-License-Identifier: Apache-2.0

package runc_test

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

const boxed = fakeruntime.Boxed

// TestSandboxedContainer: what goes through the monitor for others goes through
// the runtime here.
func TestSandboxedContainer(t *testing.T) {
	w := newWorld(t)
	launched, err := w.launch(t.Context(), runc.Launch{ID: id, Handler: boxed})
	w.must(err)
	root, bundle := "--root "+w.node.Layout.RuntimeRoot(boxed), w.node.Layout.Bundle(id)
	flags := " --log-format json --oci-seccomp --gofer-network-namespace=new "
	long, short := root+" --log "+bundle+"/runtime.log"+flags, root+" --log /dev/stderr"+flags
	watched, err := w.d.Monitor.List(t.Context())
	if err != nil || len(watched) != 1 || watched[0].Pid == launched.Pid {
		t.Errorf("the monitor watches %v, %v; the sandbox is %d", watched, err, launched.Pid)
	}
	w.must(w.Signal(t.Context(), boxed, id, int(syscall.SIGCONT)))
	w.must(w.Kill(t.Context(), boxed, id))
	if err := w.Kill(t.Context(), boxed, id); !errdefs.IsNotFound(err) {
		t.Errorf("second kill: %v", err)
	}
	if err := w.Signal(t.Context(), boxed, id, int(syscall.SIGTERM)); !errdefs.IsNotFound(err) {
		t.Errorf("signal to what has ended: %v", err)
	}
	if got := w.Keeper(id); got != boxed {
		t.Errorf("kept by %q", got)
	}
	w.must(w.Delete(t.Context(), boxed, id))
	if got := w.Keeper(id); got != "" {
		t.Errorf("kept by %q after delete", got)
	}
	for verb, want := range map[string]string{
		"run":    long + "run --detach --bundle " + bundle + " --pid-file " + bundle + "/init.pid " + id,
		"wait":   long + "wait " + id,
		"kill":   short + "kill " + id + " 18",
		"delete": short + "delete --force " + id,
	} {
		if got := w.node.Calls(verb); len(got) == 0 || got[0] != want {
			t.Errorf("%s: %q, want %q", verb, got, want)
		}
	}
}

// TestSandboxedCommandIsEnded: there is no cgroup to end it by.
func TestSandboxedCommandIsEnded(t *testing.T) {
	w := newWorld(t)
	_, err := w.launch(t.Context(), runc.Launch{ID: id, Handler: boxed})
	w.must(err)
	p, err := w.Exec(t.Context(), runc.Exec{ID: id, Handler: boxed, Process: &specs.Process{Args: []string{"/bin/sleep", "1000"}}})
	w.must(err)
	w.must(p.End(t.Context()))
	e, err := p.Wait(t.Context())
	if err != nil || e.Signal != int(syscall.SIGKILL) {
		t.Errorf("ended with %v, %v", e, err)
	}
	if got := w.node.Calls("kill"); len(got) == 0 || !strings.Contains(got[0], "kill --pgid "+strconv.Itoa(p.Pid)+" "+id+" 9") {
		t.Errorf("kill: %q", got)
	}
	w.must(w.Kill(t.Context(), boxed, id))
	if calls := w.node.Calls("exec"); slices.ContainsFunc(calls, func(c string) bool { return strings.Contains(c, "--cgroup") }) {
		t.Errorf("exec: %q", calls)
	}
}

// TestSandboxThatDoesNotAnswer: what stands for its containers can be ended all the
// same, and so can a launch that hangs.
func TestSandboxThatDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	launched, err := w.launch(t.Context(), runc.Launch{ID: id, Handler: boxed})
	w.must(err)
	w.node.Fault("kill", fakeruntime.Fail)
	w.must(w.Kill(t.Context(), boxed, id))
	w.must(syscall.Kill(launched.Pid, syscall.SIGKILL))
	w.must(os.RemoveAll(w.node.Layout.RuntimeRoot(boxed)))
	w.node.Fault("run", fakeruntime.Hang)
	failed := make(chan error, 1)
	go func() {
		_, err := w.Launch(context.WithoutCancel(t.Context()), runc.Launch{ID: id, Handler: boxed})
		failed <- err
	}()
	await.Until(t, 10*time.Second, "the launch is under way", func() bool {
		watched, err := w.d.Monitor.List(t.Context())
		return err == nil && len(watched) == 1
	})
	if err := w.Kill(t.Context(), boxed, id); !errdefs.IsNotFound(err) {
		t.Errorf("kill of a launch: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("a launch that was killed worked")
	}
}

func TestCheckKind(t *testing.T) {
	for kind, ok := range map[runc.Kind]bool{"": true, runc.Process: true, runc.GVisor: true, "kata": false} {
		if err := runc.CheckKind(kind); (err == nil) != ok || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", kind, err)
		}
	}
}
