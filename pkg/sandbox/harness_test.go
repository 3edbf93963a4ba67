// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/sandbox"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

func TestMain(m *testing.M) { os.Exit(fakeruntime.Main(m)) }

const patience = fakeruntime.Patience

var errInjected = errors.New("injected")

// world is the services of one daemon after the other, on a node with a fake
// runtime and a fake network plugin.
type world struct {
	*sandbox.Service
	t    *testing.T
	node *fakeruntime.Node
	d    *fakeruntime.Daemon
}

func newWorld(t *testing.T) *world {
	t.Helper()
	fakeruntime.Require(t)
	w := &world{t: t, node: fakeruntime.New(t)}
	w.connect()
	return w
}

// connect starts the next daemon, after the end of the one before.
func (w *world) connect() {
	w.t.Helper()
	w.up()
	w.d.Go(w.RunExits)
	w.must(w.Recover(w.t.Context()))
}

// up is a daemon that neither takes exits nor recovers yet.
func (w *world) up() {
	w.t.Helper()
	if w.d != nil {
		w.d.End()
	}
	d := w.node.Up()
	w.d = d
	w.Service = sandbox.New(sandbox.Options{
		Store: d.Store, Ops: d.Ops, Layout: d.Layout, RootFS: d.RootFS, Network: d.Network, Runtime: d.Runtime, Monitor: d.Monitor,
		Containers: container.New(container.Options{
			Store: d.Store, Ops: d.Ops, Layout: d.Layout, Images: d.Images, RootFS: d.RootFS, Runtime: d.Runtime, Monitor: d.Monitor, Host: d.Host, Log: d.Log,
		}),
		Host: d.Host, Pause: []byte(fakeruntime.Sleeper), Log: d.Log,
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// request asks for a pod with a network of its own.
func (w *world) request() sandbox.NewPod {
	return sandbox.NewPod{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: state.NewID(), Namespace: "default", Uid: "uid"},
		Hostname: "web", LogDirectory: filepath.Join(w.node.Dir, "logs"),
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{}}},
	}}
}

// hostRequest asks for a pod on the host's network.
func (w *world) hostRequest() sandbox.NewPod {
	in := w.request()
	in.Config.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	return in
}

func (w *world) run() state.PodID {
	w.t.Helper()
	id, err := w.Run(w.t.Context(), w.request())
	w.must(err)
	return id
}

// start runs a container in a pod.
func (w *world) start(pod state.PodID) state.ContainerID {
	w.t.Helper()
	id, err := w.Containers.Create(w.t.Context(), container.NewContainer{Pod: pod, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: state.NewID()}, Image: &cri.ImageSpec{Image: fakeruntime.Image},
	}})
	w.must(err)
	w.must(w.Containers.Start(w.t.Context(), id))
	return id
}

func (w *world) get(id state.PodID) state.Pod {
	w.t.Helper()
	p, err := w.Store.Pod(string(id))
	w.must(err)
	return p
}

// left are the traces of pods and containers on the node.
func (w *world) left() []string {
	w.t.Helper()
	var found []string
	for _, dir := range []string{
		filepath.Join(w.Layout.Records(), "pods"), filepath.Join(w.Layout.Records(), "containers"), w.Layout.Pods(), w.Layout.Containers(),
		w.Layout.Bundles(), w.Layout.RuntimeRoot("fake"), filepath.Join(w.Layout.CNICache(), "attachments"), filepath.Join(w.Layout.State, "userns"),
	} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	pinned, err := netns.List(w.Layout.NetNSPrefix())
	w.must(err)
	watched, err := w.Monitor.List(w.t.Context())
	w.must(err)
	for _, r := range watched {
		found = append(found, "watched by the monitor: "+r.ID)
	}
	return append(found, pinned...)
}

// clean holds that nothing is left of any pod.
func (w *world) clean() {
	w.t.Helper()
	if left := w.left(); len(left) > 0 {
		w.t.Errorf("left: %q", left)
	}
	if pods, containers := w.Store.Count(); pods+containers > 0 {
		w.t.Errorf("%d pods and %d containers on record", pods, containers)
	}
}

func fails() error { return errInjected }

// recovered waits for what the last daemon left half done.
func (w *world) recovered() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.must(w.AwaitRecovered(ctx))
}
