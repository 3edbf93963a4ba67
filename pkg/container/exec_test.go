// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestExecSync(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	r, err := w.ExecSync(t.Context(), id, sh("echo out; cat; echo err >/dev/stderr; exit 3"), time.Minute)
	if err != nil || r.ExitCode != 3 || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = w.ExecSync(t.Context(), id, sh("kill -9 $$"), 0)
	if err != nil || r.ExitCode != 137 {
		t.Errorf("killed: %+v, %v", r, err)
	}
	r, err = w.ExecSync(t.Context(), id, sh("head -c 20000000 /dev/zero"), 0)
	if err != nil || len(r.Stdout) != 16<<20 {
		t.Errorf("more output than is kept: %d bytes, %v", len(r.Stdout), err)
	}
	var stdout bytes.Buffer
	code, err := w.Exec(t.Context(), id, sh("read x; echo got $x"), stdio.Client{Stdin: strings.NewReader("word\n"), Stdout: &stdout})
	if err != nil || code != 0 || stdout.String() != "got word\n" {
		t.Errorf("%d, %q, %v", code, stdout.String(), err)
	}
	for name, id := range map[string]state.ContainerID{"created": w.create(sleeper), "none": state.ContainerID(state.NewID())} {
		if _, err := w.ExecSync(t.Context(), id, sh("exit 0"), 0); !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A command whose time is up, or whose caller has gone, ends with all that it started.
func TestExecIsCutOff(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	pids := filepath.Join(w.node.Dir, "pids")
	command := sh("echo $$ >>" + pids + "; sleep 1000 & echo $! >>" + pids + "; wait")
	ended := func(how string, as bool, err error) {
		t.Helper()
		if !as {
			t.Errorf("%s: %v", how, err)
		}
		data, _ := os.ReadFile(pids)
		os.Remove(pids)
		var command, child int
		if n, err := fmt.Sscan(string(data), &command, &child); n != 2 {
			t.Fatalf("%s: pids %q, %v", how, data, err)
		}
		w.node.Eventually("nothing of the command runs", func() bool { return !alive(command) && !alive(child) })
	}
	_, err := w.ExecSync(t.Context(), id, command, 2*time.Second)
	ended("time is up", errors.Is(err, context.DeadlineExceeded), err)
	ctx, leave := context.WithCancel(t.Context())
	go func() { w.await(pids, 2); leave() }()
	_, err = w.ExecSync(ctx, id, command, time.Minute)
	ended("caller has gone", errors.Is(err, context.Canceled), err)
	w.d.At("exec ", "command runs within", func() error { w.await(pids, 2); return errInjected })
	_, err = w.ExecSync(t.Context(), id, command, time.Minute)
	ended("fails half-way", errors.Is(err, errInjected), err)
	killed := make(chan struct{})
	go func() { w.await(pids, 2); w.node.KillMonitor(); close(killed) }()
	_, err = w.ExecSync(t.Context(), id, command, time.Minute)
	<-killed
	ended("monitor has ended", errdefs.IsUnavailable(err), err)
}

// What a command leaves running in the container keeps nobody waiting.
func TestExecLeavesAChild(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	r, err := w.ExecSync(t.Context(), id, sh("sleep 1000 & echo said"), time.Minute)
	if err != nil || string(r.Stdout) != "said\n" {
		t.Errorf("%+v, %v", r, err)
	}
	w.must(w.Remove(t.Context(), id))
	w.gone(id)
}

func TestExecFaults(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	for kind, is := range map[fakeruntime.Kind]func(error) bool{
		fakeruntime.Fail: errdefs.IsFailedPrecondition, fakeruntime.Absent: errdefs.IsNotFound,
		fakeruntime.NoPid: nil, fakeruntime.Half: nil, fakeruntime.Rubbish: nil,
	} {
		w.node.Fault("exec", kind)
		_, err := w.ExecSync(t.Context(), id, sh("exec sleep 1000"), time.Minute)
		if err == nil || is != nil && !is(err) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	w.node.Fault("exec", fakeruntime.Hang)
	if _, err := w.ExecSync(t.Context(), id, sh("exit 0"), 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
	if _, err := w.ExecSync(t.Context(), id, nil, 0); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no command: %v", err)
	}
	if r, err := w.ExecSync(t.Context(), id, sh("exit 4"), 0); err != nil || r.ExitCode != 4 {
		t.Errorf("after the faults: %+v, %v", r, err)
	}
	for _, place := range []string{"exec cgroup is made within", "command has ended within"} {
		w.failAt("exec ", place)
		if _, err := w.ExecSync(t.Context(), id, sh("exit 0"), 0); !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", place, err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(w.Layout.Bundle(string(id)), "exec-*"))
	if len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A daemon that dies leaves nothing of its commands: the next one forgets them.
func TestCrashInAnExec(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	ready := filepath.Join(w.node.Dir, "ready")
	go func() { _, _ = w.ExecSync(context.Background(), id, sh("echo >>"+ready+"; exec sleep 1000"), 0) }()
	w.await(ready, 1)
	kept := w.Layout.Bundle(string(id)) + "/exec-left"
	w.must(os.Mkdir(kept, 0o700))
	w.d.Crash()
	w.connect()
	w.must(w.ForgetExecs(w.get(id)))
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory of a command: %v", err)
	}
	r, err := w.ExecSync(t.Context(), id, sh("echo ok"), 0)
	if err != nil || string(r.Stdout) != "ok\n" {
		t.Errorf("%+v, %v", r, err)
	}
}
