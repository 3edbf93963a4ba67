// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hold makes path a file whose existence makes a neighbour hang.
func hold(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func letGo(path string) { os.Remove(path) }

// slowNetwork is a bridge network whose first plugin hangs or fails while there
// is a file named after the command.
func slowNetwork(t *testing.T, d *nodetest.Node) {
	t.Helper()
	plugin := fmt.Sprintf(`#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] && exec echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'
cat >%[1]s/stdin.$$
while [ -e %[1]s/hang-$CNI_COMMAND ]; do sleep 0.05; done
[ -e %[1]s/fail-$CNI_COMMAND ] && echo '{"cniVersion":"1.1.0","code":99,"msg":"cannot detach"}' && exit 1
[ "$CNI_COMMAND" = ADD ] && exec echo '{"cniVersion":"1.1.0","interfaces":[],"ips":[{"address":"10.99.0.2/24"}]}'
exit 0
`, d.Dir)
	conf := `{"cniVersion":"1.1.0","name":"cri-slow","plugins":[{"type":"cri-slow"}]}`
	if err := errors.Join(
		os.MkdirAll(filepath.Join(d.Dir, "cni"), 0o755), os.MkdirAll(filepath.Join(d.Dir, "plugins"), 0o755),
		os.WriteFile(filepath.Join(d.Dir, "plugins", "cri-slow"), []byte(plugin), 0o755),
		os.WriteFile(filepath.Join(d.Dir, "cni", "10-slow.conflist"), []byte(conf), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	d.Edit(t, "[cni]\n", fmt.Sprintf("[cni]\nbin_dir = [%q]\n", filepath.Join(d.Dir, "plugins")))
}

// answers fails when what must not wait for a neighbour does.
func answers(t *testing.T, d *nodetest.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, statusErr := d.Runtime.Status(ctx, &cri.StatusRequest{})
	_, podsErr := d.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	_, containersErr := d.Runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	_, imagesErr := d.Images.ListImages(ctx, &cri.ListImagesRequest{})
	if err := errors.Join(statusErr, podsErr, containersErr, imagesErr); err != nil {
		t.Errorf("does not answer beside a neighbour that hangs: %v", err)
	}
}

// impatient runs a request with little time. Its own deadline hides the
// daemon's answer from it, which names the stage: the daemon's log has that.
func impatient(t *testing.T, do func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	err := do(ctx)
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("answered %v, want DeadlineExceeded", err)
	}
}

// restart kills the daemon and starts it anew. It answers although what it
// has to undo hangs.
func restart(t *testing.T, d *nodetest.Node) {
	t.Helper()
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the restart took %s", took)
	}
}

func newNode(t *testing.T, prepare func(*nodetest.Node)) *nodetest.Node {
	t.Helper()
	d := nodetest.New(t, nodetest.Preload(t))
	prepare(d)
	d.StartFor(t)
	d.AwaitImage(t, nodetest.TestImage)
	return d
}

// TestNetworkPluginHangs lets a CNI plugin hang in each of its commands.
func TestNetworkPluginHangs(t *testing.T) {
	d := newNode(t, func(d *nodetest.Node) { slowNetwork(t, d) })
	at := func(command string) string { return filepath.Join(d.Dir, "hang-"+command) }
	n := &node{Node: d, t: t}
	t.Run("ADD", func(t *testing.T) {
		w := n.world(t)
		w.config.PortMappings = nil
		hold(t, at("ADD"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config})
			return err
		})
		answers(t, d)
		nodetest.Eventually(t, 5*time.Second, "the log names the stage and how long it lasts", func() bool {
			return strings.Contains(d.Log(), `still at \"set up network and run pause\" for`)
		})
		time.AfterFunc(300*time.Millisecond, func() { letGo(at("ADD")) })
		if err := w.run(); err != nil { // joins
			t.Fatal(err)
		}
		if got := w.podState(); got != ready {
			t.Errorf("state %s", got)
		}
		if err := errors.Join(w.stopPod(), w.removePod()); err != nil {
			t.Error(err)
		}
	})
	t.Run("ADD and a restart", func(t *testing.T) {
		w := n.world(t)
		w.config.PortMappings = nil
		hold(t, at("ADD"))
		hold(t, at("DEL"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config})
			return err
		})
		restart(t, d)
		answers(t, d)
		letGo(at("ADD"))
		letGo(at("DEL"))
		if err := w.run(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.stopPod(), w.removePod()); err != nil {
			t.Error(err)
		}
	})
	t.Run("DEL", func(t *testing.T) {
		w := n.world(t)
		w.config.PortMappings = nil
		if err := w.run(); err != nil {
			t.Fatal(err)
		}
		hold(t, at("DEL"))
		impatient(t, func(ctx context.Context) error {
			_, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.pod})
			return err
		})
		answers(t, d)
		if got := w.podState(); got != notReady {
			t.Errorf("state %s while its network is not released", got)
		}
		restart(t, d)
		answers(t, d)
		letGo(at("DEL"))
		if err := w.removePod(); err != nil {
			t.Error(err)
		}
		if got := w.podState(); got != none {
			t.Errorf("state %s", got)
		}
	})
	t.Run("STATUS", func(t *testing.T) {
		hold(t, at("STATUS"))
		defer letGo(at("STATUS"))
		restart(t, d)
		for range 5 {
			answers(t, d)
		}
	})
}

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
	d := newNode(t, func(d *nodetest.Node) { slowRuntime(t, d) })
	warm(t, d)
	clean := d.Look(t)
	n := &node{Node: d, t: t}
	at := func(what string) string { return filepath.Join(d.Dir, what) }
	run := func(w *world, ctx context.Context) error {
		r, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config, RuntimeHandler: "slow"})
		if err == nil {
			w.pod = r.PodSandboxId
		}
		return err
	}
	t.Run("run pod", func(t *testing.T) {
		w := n.world(t)
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
		w := n.world(t)
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
		w := n.world(t)
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
		w := n.world(t)
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
		w := n.world(t)
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
		w := n.world(t)
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

// TestUnkillableContainer freezes the cgroup above a container, so that SIGKILL
// has no effect on it, as on a process that waits for a dead disk. Its own cgroup
// would be thawed.
func TestUnkillableContainer(t *testing.T) {
	d := newNode(t, func(*nodetest.Node) {})
	warm(t, d)
	clean := d.Look(t)
	n := &node{Node: d, t: t}
	w := n.world(t)
	w.prepare(subject{before: upTo((*world).run, (*world).create, (*world).start)})
	freezer := fmt.Sprintf("/sys/fs/cgroup/freezer/cri-%s/freezer.state", w.pod)
	if _, err := os.Stat(freezer); err != nil {
		t.Skip("no cgroup v1 freezer to make a process unkillable with")
	}
	set := func(state string) {
		if err := os.WriteFile(freezer, []byte(state), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("FROZEN")
	thawed := false
	defer func() {
		if !thawed {
			set("THAWED")
		}
	}()
	began := time.Now()
	err := w.kill()
	if err == nil || !strings.Contains(err.Error(), "after SIGKILL") || !strings.Contains(err.Error(), "uninterruptible") {
		t.Errorf("stop of a frozen container, after %s: %v", time.Since(began), err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("took %s to say so", took)
	}
	answers(t, d)
	impatient(t, func(ctx context.Context) error {
		_, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.pod})
		return err
	})
	restart(t, d)
	answers(t, d)
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the daemon does not stop beside a frozen container")
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	set("THAWED")
	thawed = true
	w.clear(clean)
}
