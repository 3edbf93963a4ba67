// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { os.Exit(fakeruntime.Main(m)) }

const patience = fakeruntime.Patience

// world is the service of one daemon after the other, on a node with a fake runtime.
type world struct {
	*container.Service
	t    *testing.T
	node *fakeruntime.Node
	d    *fakeruntime.Daemon
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, node: fakeruntime.New(t)}
	w.connect()
	return w
}

// newCreator is a world in which containers can be created.
func newCreator(t *testing.T) *world {
	t.Helper()
	fakeruntime.Require(t)
	return newWorld(t)
}

// connect starts the next daemon, after the end of the one before.
func (w *world) connect() {
	w.t.Helper()
	w.up()
	w.recordExits()
}

// up is a daemon that does not take exits yet.
func (w *world) up() {
	w.t.Helper()
	if w.d != nil {
		w.d.End()
	}
	d := w.node.Up()
	w.d = d
	w.Service = container.New(container.Options{
		Store: d.Store, Ops: d.Ops, Layout: d.Layout, Images: d.Images, RootFS: d.RootFS, Runtime: d.Runtime, Monitor: d.Monitor, Host: d.Host, Log: d.Log,
	})
}

func (w *world) recordExits() {
	s := w.Service
	w.d.Go(func(ctx context.Context) error {
		return s.Monitor.RunExits(ctx, monitor.ExitHandler{Record: s.RecordExit, Reconcile: func(context.Context) error { return nil }})
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// pod records a ready pod, whose pause is this process.
func (w *world) pod() state.PodID {
	w.t.Helper()
	p, _, err := w.Store.BeginPod(state.Pod{
		ID: state.PodID(state.NewID()), PausePID: os.Getpid(), CreatedAt: time.Now(),
		Config: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: state.NewID()}, LogDirectory: filepath.Join(w.node.Dir, "logs"),
			Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE},
			}},
		},
	})
	if err == nil {
		_, err = w.Store.MovePod(p.ID, state.PodUp, func(p *state.Pod) { p.CgroupParent = "/cri-" + string(p.ID) })
	}
	w.must(err)
	return p.ID
}

// request asks for a container whose shell runs script.
func (w *world) request(pod state.PodID, script string) container.NewContainer {
	return container.NewContainer{Pod: pod, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "app"}, Image: &cri.ImageSpec{Image: fakeruntime.Image},
		Command: []string{"/bin/sh", "-c", script}, LogPath: "app/0.log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER},
		}},
	}}
}

// sleeper is what ends at its stop signal only.
const sleeper = "exec sleep 1000"

func (w *world) create(script string) state.ContainerID {
	w.t.Helper()
	id, err := w.Create(w.t.Context(), w.request(w.pod(), script))
	w.must(err)
	return id
}

func (w *world) start(script string) state.ContainerID {
	w.t.Helper()
	id := w.create(script)
	w.must(w.Start(w.t.Context(), id))
	return id
}

// get is the container's record.
func (w *world) get(id state.ContainerID) state.Container {
	w.t.Helper()
	c, err := w.Store.Container(string(id))
	w.must(err)
	return c
}

// ended waits for the container's end.
func (w *world) ended(id state.ContainerID) state.Container {
	w.t.Helper()
	return w.d.Reaches(id, state.Exited)
}

// left are the traces of a container on the node, besides its log.
func (w *world) left(id state.ContainerID) []string {
	w.t.Helper()
	var found []string
	for _, path := range []string{
		w.Layout.ContainerFiles(id), w.Layout.Bundle(string(id)), filepath.Join(w.Layout.RuntimeRoot("fake"), string(id)),
		filepath.Join(w.Layout.Monitor(), string(id)), filepath.Join(w.Layout.Records(), "containers", string(id)+".json"),
	} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			found = append(found, path)
		}
	}
	if w.RootFS != nil {
		keys, err := w.RootFS.Keys()
		w.must(err)
		for _, key := range keys {
			if strings.HasPrefix(key, string(id)) {
				found = append(found, "snapshot "+key)
			}
		}
	}
	watched, err := w.Monitor.List(w.t.Context())
	w.must(err)
	for _, r := range watched {
		if r.ID == string(id) {
			found = append(found, "watched by the monitor")
		}
	}
	return found
}

// gone holds that nothing is left of a container.
func (w *world) gone(id state.ContainerID) {
	w.t.Helper()
	if left := w.left(id); len(left) > 0 {
		w.t.Errorf("left of container %s: %q", id, left)
	}
	if c, err := w.Store.Container(string(id)); err == nil {
		w.t.Errorf("there is a record, and it is %s", c.Phase)
	}
}

// launch brings a container to where its program runs, which is a script on the
// host: nothing is mounted.
func (w *world) launch(script string) state.ContainerID {
	w.t.Helper()
	id := w.record(state.Starting)
	pid, err := w.program(w.t.Context(), id, script)
	if err == nil {
		_, err = w.Store.MoveContainer(id, state.Run, func(c *state.Container) { c.PID = pid })
	}
	w.must(err)
	return id
}

// program launches a script as a container's program.
func (w *world) program(ctx context.Context, id state.ContainerID, script string) (pid int, err error) {
	w.t.Helper()
	w.node.Write(strings.TrimPrefix(w.Layout.Bundle(string(id))+"/program", w.node.Dir+"/"), script)
	err = w.Runtime.WriteBundle(string(id), &specs.Spec{
		Process: &specs.Process{Args: []string{"/program"}}, Root: &specs.Root{Path: w.Layout.Bundle(string(id))}, Linux: &specs.Linux{},
	})
	w.must(err)
	launched, err := w.Runtime.Launch(ctx, runc.Launch{ID: string(id)})
	if err == nil {
		w.t.Cleanup(func() { _ = syscall.Kill(launched.Pid, syscall.SIGKILL) })
	}
	return launched.Pid, err
}

// record makes a record in one of the phases.
func (w *world) record(phase state.Phase) state.ContainerID {
	w.t.Helper()
	c, _, err := w.Store.BeginContainer(state.Container{
		ID: state.ContainerID(state.NewID()), Pod: w.pod(), StopSignal: int32(cri.Signal_SIGNAL_SIGTERM), CreatedAt: time.Now(),
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "app"}},
	})
	w.must(err)
	for _, e := range map[state.Phase][]state.Event{
		state.Created:  {state.Prepared},
		state.Starting: {state.Prepared, state.Launch},
		state.Running:  {state.Prepared, state.Launch, state.Run},
		state.Exited:   {state.Prepared, state.Launch, state.Run, state.Exit},
		state.Removing: {state.Prepared, state.Remove},
	}[phase] {
		_, err = w.Store.MoveContainer(c.ID, e, nil)
		w.must(err)
	}
	return c.ID
}

// await waits until a file has n lines.
func (w *world) await(path string, n int) {
	w.t.Helper()
	w.node.Eventually(path+" is written", func() bool { return lines(path) >= n })
}

func lines(path string) int {
	data, _ := os.ReadFile(path)
	return strings.Count(string(data), "\n")
}
