// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// subject is a pod with one container, to which things happen.
type subject struct {
	*nodetest.Node
	t         *testing.T
	config    *cri.PodSandboxConfig
	container *cri.ContainerConfig
	pod, id   string // once they are made
}

var serial atomic.Int64

func newSubject(t *testing.T, d *nodetest.Node) *subject {
	name := fmt.Sprintf("app-%d", serial.Add(1))
	config := d.PodConfig("subject")
	config.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: freePort(t)}}
	return &subject{Node: d, t: t, config: config, container: nodetest.ContainerConfig(name, "sleep")}
}

// started is a subject whose container runs.
func started(t *testing.T, d *nodetest.Node) *subject {
	t.Helper()
	s := newSubject(t, d)
	s.must(s.run, s.create, s.start)
	return s
}

// must do what has to work for the test to go on.
func (s *subject) must(verbs ...func() error) {
	s.t.Helper()
	for _, do := range verbs {
		if err := do(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// removeAll removes the pod and all in it.
func (s *subject) removeAll() {
	s.t.Helper()
	if err := errors.Join(s.stopPod(), s.removePod()); err != nil {
		s.t.Error(err)
	}
}

// clear removes the pod; everything must be as it was before it.
func (s *subject) clear(clean nodetest.Snapshot) {
	s.t.Helper()
	if s.pod != "" {
		s.removeAll()
	}
	s.AwaitSame(s.t, clean, "after the pod's removal")
}

func (s *subject) run() error {
	r, err := s.Runtime.RunPodSandbox(s.t.Context(), &cri.RunPodSandboxRequest{Config: s.config})
	if err == nil {
		s.pod = r.PodSandboxId
	}
	return err
}

func (s *subject) create() error {
	r, err := s.Runtime.CreateContainer(s.t.Context(), &cri.CreateContainerRequest{PodSandboxId: s.pod, Config: s.container, SandboxConfig: s.config})
	if err == nil {
		s.id = r.ContainerId
	}
	return err
}

func (s *subject) start() error {
	_, err := s.Runtime.StartContainer(s.t.Context(), &cri.StartContainerRequest{ContainerId: s.id})
	if err == nil {
		s.AwaitLog(s.t, s.container.Metadata.Name, "sleeping") // it handles signals from here on
	}
	return err
}

func (s *subject) stop() error {
	_, err := s.Runtime.StopContainer(s.t.Context(), &cri.StopContainerRequest{ContainerId: s.id, Timeout: 10})
	return err
}

func (s *subject) kill() error {
	_, err := s.Runtime.StopContainer(s.t.Context(), &cri.StopContainerRequest{ContainerId: s.id})
	return err
}

func (s *subject) remove() error {
	_, err := s.Runtime.RemoveContainer(s.t.Context(), &cri.RemoveContainerRequest{ContainerId: s.id})
	return err
}

func (s *subject) exec() error {
	r, err := s.Runtime.ExecSync(s.t.Context(), &cri.ExecSyncRequest{ContainerId: s.id, Cmd: []string{"/bin/testbox", "exit", "3"}, Timeout: 20})
	if err == nil && r.ExitCode != 3 {
		return fmt.Errorf("exec: %v, want code 3", r)
	}
	return err
}

const newLimit = 64 << 20

func (s *subject) update() error {
	_, err := s.Runtime.UpdateContainerResources(s.t.Context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: s.id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: newLimit},
	})
	return err
}

func (s *subject) stopPod() error {
	_, err := s.Runtime.StopPodSandbox(s.t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: s.pod})
	return err
}

func (s *subject) removePod() error {
	_, err := s.Runtime.RemovePodSandbox(s.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: s.pod})
	return err
}

// States that the API tells of, and one for what is not there.
const (
	ready, notReady  = "SANDBOX_READY", "SANDBOX_NOTREADY"
	created, running = "CONTAINER_CREATED", "CONTAINER_RUNNING"
	exited, none     = "CONTAINER_EXITED", "none"
)

// podState is what the list of pods says of those like the subject.
func (s *subject) podState() string {
	s.t.Helper()
	r, err := s.Runtime.ListPodSandbox(s.t.Context(), &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"test": "subject"}},
	})
	switch {
	case err != nil:
		s.t.Fatal(err)
	case len(r.Items) == 0:
		return none
	case len(r.Items) > 1:
		return fmt.Sprintf("%d pods", len(r.Items))
	}
	return r.Items[0].State.String()
}

// containerState is what the list of containers says of those in the pod.
func (s *subject) containerState() string {
	s.t.Helper()
	r, err := s.Runtime.ListContainers(s.t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: s.pod}})
	switch {
	case err != nil:
		s.t.Fatal(err)
	case len(r.Containers) == 0:
		return none
	case len(r.Containers) > 1:
		return fmt.Sprintf("%d containers", len(r.Containers))
	}
	return r.Containers[0].State.String()
}

// warm runs and removes one pod, so that what the first pod of a node makes for all others is there.
func warm(t *testing.T, d *nodetest.Node) {
	t.Helper()
	s := started(t, d)
	s.must(s.stopPod, s.removePod)
}

// bystander is a pod that has nothing to do with what is made to fail, and must not notice any of it.
type bystander struct {
	*nodetest.Node
	pod, id    string
	lines, pid int
}

func newBystander(t testing.TB, d *nodetest.Node) *bystander {
	t.Helper()
	b, config := &bystander{Node: d}, d.PodConfig("bystander")
	b.pod = d.Pod(t, config)
	b.id = d.Run(t, b.pod, nodetest.ContainerConfig("bystander", "lines", "0", "5"), config)
	d.AwaitLog(t, "bystander", "line 3")
	b.pid = pidOf(t, d, b.id)
	return b
}

// check fails when the bystander noticed anything.
func (b *bystander) check(t testing.TB) {
	t.Helper()
	s, err := b.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: b.pod})
	if err != nil || s.Status.State != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("bystander's pod: %v, %v", s, err)
	}
	if c := b.Status(t, b.id); c.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("bystander: %v", c)
	}
	if pid := pidOf(t, b.Node, b.id); pid != b.pid {
		t.Errorf("bystander's pid was %d, is %d", b.pid, pid)
	}
	before := b.lines
	nodetest.Eventually(t, 10*time.Second, "the bystander's log goes on", func() bool {
		var err error
		if b.lines, err = countLines(b.LogOf(t, "bystander")); err != nil {
			t.Fatal(err)
		}
		return b.lines > before
	})
}

// pidOf is the process id of a container.
func pidOf(t testing.TB, d *nodetest.Node, id string) int {
	t.Helper()
	r, err := d.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		t.Fatalf("no pid in %v: %v", r.Info, err)
	}
	return info.Pid
}

// countLines checks that the log of testbox lines has each line once, in order, and returns how many.
func countLines(log string) (int, error) {
	lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
	for i, line := range lines {
		if line != fmt.Sprintf("line %d", i+1) {
			return i, fmt.Errorf("line %d of the log is %q", i+1, line)
		}
	}
	return len(lines), nil
}

// freePort is a TCP port nobody has now.
func freePort(t testing.TB) int32 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}
