// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// world is what one operation works on.
type world struct {
	*node
	t         *testing.T
	config    *cri.PodSandboxConfig
	container *cri.ContainerConfig
	pod, id   string
}

func (n *node) world(t *testing.T) *world {
	name := fmt.Sprintf("app-%d", n.serial.Add(1))
	c := nodetest.ContainerConfig(name, "sleep")
	config := n.PodConfig("subject")
	config.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: freePort(t)}}
	return &world{node: n, t: t, config: config, container: c}
}

func (w *world) run() error {
	r, err := w.Runtime.RunPodSandbox(w.t.Context(), &cri.RunPodSandboxRequest{Config: w.config})
	if err == nil {
		w.pod = r.PodSandboxId
	}
	return err
}

func (w *world) create() error {
	r, err := w.Runtime.CreateContainer(w.t.Context(), &cri.CreateContainerRequest{PodSandboxId: w.pod, Config: w.container, SandboxConfig: w.config})
	if err == nil {
		w.id = r.ContainerId
	}
	return err
}

func (w *world) start() error {
	_, err := w.Runtime.StartContainer(w.t.Context(), &cri.StartContainerRequest{ContainerId: w.id})
	if err == nil {
		w.AwaitLog(w.t, w.container.Metadata.Name, "sleeping") // it handles signals from here on
	}
	return err
}

func (w *world) stop() error {
	_, err := w.Runtime.StopContainer(w.t.Context(), &cri.StopContainerRequest{ContainerId: w.id, Timeout: 10})
	return err
}

func (w *world) kill() error {
	_, err := w.Runtime.StopContainer(w.t.Context(), &cri.StopContainerRequest{ContainerId: w.id})
	return err
}

func (w *world) remove() error {
	_, err := w.Runtime.RemoveContainer(w.t.Context(), &cri.RemoveContainerRequest{ContainerId: w.id})
	return err
}

func (w *world) exec() error {
	r, err := w.Runtime.ExecSync(w.t.Context(), &cri.ExecSyncRequest{ContainerId: w.id, Cmd: []string{"/bin/testbox", "exit", "3"}, Timeout: 20})
	if err == nil && r.ExitCode != 3 {
		return fmt.Errorf("exec: %v, want code 3", r)
	}
	return err
}

const newLimit = 64 << 20

func (w *world) update() error {
	_, err := w.Runtime.UpdateContainerResources(w.t.Context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: w.id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: newLimit},
	})
	return err
}

func (w *world) stopPod() error {
	_, err := w.Runtime.StopPodSandbox(w.t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: w.pod})
	return err
}

func (w *world) removePod() error {
	_, err := w.Runtime.RemovePodSandbox(w.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: w.pod})
	return err
}

// podState and containerState are what the API says: "none" for what is not there.
func (w *world) podState() string {
	w.t.Helper()
	r, err := w.Runtime.ListPodSandbox(w.t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"test": "subject"}}})
	switch {
	case err != nil:
		w.t.Fatal(err)
	case len(r.Items) == 0:
		return "none"
	case len(r.Items) > 1:
		return fmt.Sprintf("%d pods", len(r.Items))
	}
	return r.Items[0].State.String()
}

func (w *world) containerState() string {
	w.t.Helper()
	r, err := w.Runtime.ListContainers(w.t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: w.pod}})
	switch {
	case err != nil:
		w.t.Fatal(err)
	case len(r.Containers) == 0:
		return "none"
	case len(r.Containers) > 1:
		return fmt.Sprintf("%d containers", len(r.Containers))
	}
	return r.Containers[0].State.String()
}

const (
	ready, notReady  = "SANDBOX_READY", "SANDBOX_NOTREADY"
	created, running = "CONTAINER_CREATED", "CONTAINER_RUNNING"
	exited, none     = "CONTAINER_EXITED", "none"
)

// subject is an operation that is made to fail and die at each of its steps.
type subject struct {
	name    string
	before  []func(*world) error // brings about what the operation needs
	act     func(*world) error
	state   func(*world) string
	undone  string // the state when the operation did not happen
	done    string // and when it did
	between string // a third state that a later request leads out of, if there is one
	// again tells what the repeated request answers after one that had worked
	// without anyone hearing of it: OK unless set.
	again codes.Code
	// async is done by the daemon after the answer: the operation itself works.
	async bool
}

var (
	runPod   = (*world).run
	upTo     = func(f ...func(*world) error) []func(*world) error { return f }
	subjects = []subject{
		{name: "run pod", act: runPod, state: (*world).podState, undone: none, done: ready},
		{name: "create container", before: upTo(runPod), act: (*world).create, state: (*world).containerState, undone: none, done: created},
		{
			name: "start container", before: upTo(runPod, (*world).create), act: (*world).start, state: (*world).containerState,
			undone: created, done: running, between: exited, again: codes.FailedPrecondition,
		},
		{name: "exec", before: upTo(runPod, (*world).create, (*world).start), act: (*world).exec, state: (*world).containerState, undone: running, done: running},
		{name: "update", before: upTo(runPod, (*world).create, (*world).start), act: (*world).update, state: (*world).containerState, undone: running, done: running},
		{name: "stop container", before: upTo(runPod, (*world).create, (*world).start), act: (*world).stop, state: (*world).containerState, undone: running, done: exited, async: true},
		{name: "kill container", before: upTo(runPod, (*world).create, (*world).start), act: (*world).kill, state: (*world).containerState, undone: running, done: exited, async: true},
		{name: "remove container", before: upTo(runPod, (*world).create, (*world).start), act: (*world).remove, state: (*world).containerState, undone: running, done: none, between: exited, async: true},
		{name: "stop pod", before: upTo(runPod, (*world).create, (*world).start), act: (*world).stopPod, state: (*world).podState, undone: ready, done: notReady, async: true},
		{name: "remove pod", before: upTo(runPod, (*world).create, (*world).start), act: (*world).removePod, state: (*world).podState, undone: ready, done: none, between: notReady, async: true},
	}
)

// TestEachStep lets every operation fail, and the daemon die, before, within
// and after each of its steps, as the operation itself lists them.
func TestEachStep(t *testing.T) {
	n := faultyNode(t)
	by := n.bystander()
	clean := n.Node.Look(t)
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			n.plan()
			w := n.world(t)
			w.prepare(s)
			n.record()
			if err := s.act(w); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // what is done after the answer passes its steps too
			places := n.passed()
			w.clear(clean)
			if len(places) == 0 {
				t.Fatalf("passed only %v", places)
			}
			for _, place := range places {
				for _, place.Action = range actions(place) {
					t.Run(place.String(), func(t *testing.T) {
						n.t = t
						n.strike(t, s, place, clean)
						by.check(t, n)
					})
					if t.Failed() {
						return
					}
				}
			}
		})
		n.t = t
	}
}

// actions are what happens at a place. To die after a step and before the next
// is the same, nearly, and so is to fail: `make test` does one of each.
func actions(place plannedFault) []string {
	switch {
	case os.Getenv("CRASH_KILLS") != "" || place.Moment == "within":
		return []string{"error", "kill"}
	case place.Moment == "before":
		return []string{"error"}
	}
	return []string{"kill"}
}

func (w *world) prepare(s subject) {
	w.t.Helper()
	for _, step := range s.before {
		if err := step(w); err != nil {
			w.t.Fatalf("prepare: %v", err)
		}
	}
}

// strike runs the operation into one fault and holds what is left against what
// was acknowledged.
func (n *node) strike(t *testing.T, s subject, place plannedFault, clean nodetest.Snapshot) {
	w := n.world(t)
	n.plan()
	w.prepare(s)
	prepared := n.Node.Look(t)
	n.plan(place)
	err := s.act(w)
	nodetest.Eventually(t, 5*time.Second, "the fault strikes", n.struck)
	if place.Action == "kill" {
		w.revive()
		if err == nil && w.stateIs(s, s.done) {
			err = errAcknowledged
		}
	}
	got := s.state(w)
	switch {
	case err == nil || errors.Is(err, errAcknowledged):
		if got != s.done {
			t.Errorf("acknowledged, but the state is %s, want %s", got, s.done)
		}
	case got == s.undone && s.undone != s.done:
		if len(s.before) < 3 { // a running container's own files change
			n.Node.AwaitSame(t, prepared, "what did not happen left something")
		}
	case got != s.done && got != s.between:
		t.Errorf("after %v the state is %s", err, got)
	case place.Action == "error" && strings.HasPrefix(s.name, place.Operation) && s.between == "" && s.undone != s.done && got == s.done && !s.async:
		t.Errorf("an error was answered, %v, and yet the state is %s", err, got)
	}
	w.repeat(s, got)
	if s.undone == s.done {
		n.Node.AwaitSame(t, prepared, "what left the container as it was left something")
	}
	w.clear(clean)
}

var errAcknowledged = errors.New("acknowledged before the kill")

func (w *world) stateIs(s subject, want string) bool { return s.state(w) == want }

// revive starts the daemon that a fault killed.
func (w *world) revive() {
	w.t.Helper()
	if err := w.AwaitEnd(5 * time.Second); err != nil {
		w.t.Fatal(err)
	}
	if err := w.Up(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// repeat is the kubelet asking again, which must lead to the wanted state.
func (w *world) repeat(s subject, was string) {
	w.t.Helper()
	err := s.act(w)
	if s.name == "start container" && was == exited {
		return // it ran and was ended: the kubelet makes the next attempt
	}
	if was == s.done && s.again != codes.OK && status.Code(err) == s.again {
		err = nil
	}
	if err != nil {
		w.t.Errorf("the repeated request: %v", err)
	}
	if got := s.state(w); got != s.done {
		w.t.Errorf("after the repeated request the state is %s, want %s", got, s.done)
	}
	if s.name == "update" {
		if got := w.Status(w.t, w.id).Resources.GetLinux().GetMemoryLimitInBytes(); got != newLimit {
			w.t.Errorf("memory limit %d, want %d", got, newLimit)
		}
	}
}

// clear removes the pod; everything must be as it was before it.
func (w *world) clear(clean nodetest.Snapshot) {
	w.t.Helper()
	if w.pod != "" {
		if err := errors.Join(w.stopPod(), w.removePod()); err != nil {
			w.t.Error(err)
		}
	}
	w.Node.AwaitSame(w.t, clean, "after the pod's removal")
}
