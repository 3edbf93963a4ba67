// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// slowRuntime is a second runtime handler that hangs before, or dies within,
// the subcommands that there are files for.
func slowRuntime(t *testing.T, d *nodetest.Node) {
	t.Helper()
	path := filepath.Join(d.Dir, "slow-runc")
	script := fmt.Sprintf(`#!/bin/sh
for a in "$@"; do case $a in run|exec|delete|update|create|start|features) verb=$a; break;; esac; done
[ -e %[1]s/die-$verb ] && { %[2]s "$@" & sleep 0.03; kill -9 $! $$; }
while [ -e %[1]s/hang-$verb ]; do sleep 0.05; done
exec %[2]s "$@"
`, d.Dir, nodetest.Bin(t, "runc"))
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d.Edit(t, "[cni]\n", fmt.Sprintf("[runtime.handlers.runc]\n[runtime.handlers.slow]\npath = %q\n[cni]\n", path))
}

// TestRuntimeHangs lets the OCI runtime hang and die half way.
func TestRuntimeHangs(t *testing.T) {
	d := prepared(t, func(d *nodetest.Node) { slowRuntime(t, d) })
	warm(t, d)
	clean := d.Look(t)
	at := func(what string) string { return filepath.Join(d.Dir, what) }
	run := func(w *subject, ctx context.Context) error {
		r, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config, RuntimeHandler: "slow"})
		if err == nil {
			w.pod = r.PodSandboxId
		}
		return err
	}
	t.Run("run pod", func(t *testing.T) {
		w := newSubject(t, d)
		hold(t, at("hang-run"))
		impatient(t, func(ctx context.Context) error { return run(w, ctx) })
		answers(t, d)
		letGo(at("hang-run"))
		if err := run(w, t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clear(clean)
	})
	t.Run("run pod and a restart", func(t *testing.T) {
		w := newSubject(t, d)
		hold(t, at("hang-run"))
		impatient(t, func(ctx context.Context) error { return run(w, ctx) })
		restart(t, d)
		answers(t, d)
		letGo(at("hang-run"))
		d.AwaitSame(t, clean, "after a start nobody heard of")
		if err := run(w, t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clear(clean)
	})
	t.Run("start container and a restart", func(t *testing.T) {
		w := newSubject(t, d)
		if err := errors.Join(run(w, t.Context()), w.create()); err != nil {
			t.Fatal(err)
		}
		hold(t, at("hang-run"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: w.id})
			return err
		})
		restart(t, d)
		answers(t, d)
		letGo(at("hang-run"))
		nodetest.Eventually(t, 20*time.Second, "the container starts after all, or can be started", func() bool {
			return w.start() == nil || w.containerState() == running
		})
		w.clear(clean)
	})
	t.Run("dies within run", func(t *testing.T) {
		w := newSubject(t, d)
		hold(t, at("die-run"))
		for range 5 {
			if err := run(w, t.Context()); err == nil {
				t.Error("a pod whose runtime died is up")
				break
			}
		}
		letGo(at("die-run"))
		w.pod = ""
		d.AwaitSame(t, clean, "after runtimes that died")
		if err := run(w, t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clear(clean)
	})
	t.Run("delete", func(t *testing.T) {
		w := newSubject(t, d)
		if err := run(w, t.Context()); err != nil {
			t.Fatal(err)
		}
		hold(t, at("hang-delete"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.pod})
			return err
		})
		answers(t, d)
		restart(t, d)
		answers(t, d)
		letGo(at("hang-delete"))
		w.clear(clean)
	})
	t.Run("exec", func(t *testing.T) {
		w := newSubject(t, d)
		if err := errors.Join(run(w, t.Context()), w.create(), w.start()); err != nil {
			t.Fatal(err)
		}
		hold(t, at("hang-exec"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: w.id, Cmd: []string{"/bin/testbox", "exit", "3"}})
			return err
		})
		if _, err := d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: w.id, Cmd: []string{"/bin/testbox", "exit", "3"}, Timeout: 1}); err == nil {
			t.Error("an exec whose runtime hangs ends well")
		}
		answers(t, d)
		letGo(at("hang-exec"))
		if err := w.exec(); err != nil {
			t.Error(err)
		}
		w.clear(clean)
	})
}
