// SPDX-License-Identifier: Apache-2.0

package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is the machine that a runtime's daemon runs on, and what a test does to it.
type Node interface {
	Client(kind Kind) cri.RuntimeServiceClient // of the daemon that runs now, for a step
	Around(kind Kind)                          // Crash, KillMonitor, KillBoth or HoldMonitor; the next daemon and monitor are ready when it returns
	CrashAtStep(n int)                         // the daemon dies at the nth step of the next call, or thereabouts
	Survived() bool                            // takes a CrashAtStep back, and tells whether it did not strike; the next daemon runs then
	Fault(kind Kind)                           // FailRun, FailAdd or FailDel
	Heal()                                     // takes back every fault that has not struck
	Left() error                               // what is left on the machine once all pods are removed
}

// Driver is a runtime behind the CRI.
type Driver struct {
	Node    Node
	Image   string
	Command []string // exits with 0 at SIGTERM and with 7 at SIGUSR1
	Exec    []string // exits with 3
	Change  func(*cri.PodSandboxConfig)
	Steps   func() int // a number of steps for CrashAtStep

	round      int // of sequences, which makes names unique
	pods       [Pods]string
	containers [Containers]string
	calls      int
	armed      bool
}

// patience bounds every call and every wait.
const patience = 30 * time.Second

const podName = "pod-%d-%d" // of a round, in a slot

var unknown = strings.Repeat("0", 64)

// prefix is how much of an id tells it from others.
const prefix = 13

// Do does one step.
func (d *Driver) Do(s Step) Answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch s.Kind {
	case FailRun, FailAdd, FailDel:
		d.Node.Fault(s.Kind)
	case CrashAtStep:
		d.armed = true
		d.Node.CrashAtStep(d.Steps())
	case Crash, KillBoth:
		d.disarm()
		d.Node.Heal()
		d.Node.Around(s.Kind)
	case KillMonitor, HoldMonitor:
		d.Node.Around(s.Kind)
	case KillProcess, KillPause, End:
		return d.kill(ctx, s)
	default:
		said, err := d.call(ctx, s)
		if d.armed && !d.disarm() || s.Kind == Run && err != nil { // a run that could not be undone leaves a pod too
			d.find(ctx)
		}
		if err != nil {
			return Answer{Class: status.Code(err).String()}
		}
		return Answer{Said: said}
	}
	return Answer{}
}

// disarm tells whether the daemon has survived a CrashAtStep.
func (d *Driver) disarm() bool {
	d.armed = false
	survived := d.Node.Survived()
	if !survived {
		d.Node.Heal()
	}
	return survived
}

// find learns the ids of what was made by a call whose answer does not tell them.
func (d *Driver) find(ctx context.Context) {
	c := d.Node.Client(List)
	pods, err := c.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return // a later step says so
	}
	for _, p := range pods.Items {
		var round, at int
		if n, _ := fmt.Sscanf(p.Metadata.Name, podName, &round, &at); n == 2 && round == d.round {
			d.pods[at] = p.Id
		}
	}
	containers, err := c.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return
	}
	for _, c := range containers.Containers {
		if at, err := strconv.Atoi(c.Metadata.Name); err == nil && d.pods[at%Pods] == c.PodSandboxId {
			d.containers[at] = c.Id
		}
	}
}

// id is the id of an object, or the start of it at every other call.
func (d *Driver) id(known string) string {
	if known == "" {
		known = unknown
	}
	if d.calls%2 == 0 {
		return known[:prefix]
	}
	return known
}

func (d *Driver) call(ctx context.Context, s Step) (said string, err error) {
	d.calls++
	c, pod := d.Node.Client(s.Kind), d.id(d.pods[s.At%Pods])
	container := d.id(d.containers[s.At])
	switch s.Kind {
	case Run:
		r, err := c.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: d.podConfig(s.At % Pods)})
		if err == nil {
			d.pods[s.At%Pods] = r.PodSandboxId
		}
		return "", err
	case StopPod:
		_, err = c.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod})
	case RemovePod:
		_, err = c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
	case PodStatus:
		r, err := c.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			return "", err
		}
		return podState(r.Status.State), nil
	case Create:
		r, err := c.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: d.containerConfig(s.At), SandboxConfig: d.podConfig(s.At % Pods)})
		if err == nil {
			d.containers[s.At] = r.ContainerId
		}
		return "", err
	case Start:
		_, err = c.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container})
	case Stop:
		_, err = c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: container, Timeout: int64(patience / time.Second)})
	case Kill:
		_, err = c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: container})
	case Remove:
		_, err = c.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: container})
	case Status:
		r, err := c.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: container})
		return stateOf(r.GetStatus().GetState(), r.GetStatus().GetExitCode()), err
	case List, ListRow, ListRuns, ListPods, ListReady:
		return lists(ctx, c, s, pod)
	case Reopen:
		_, err = c.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: container})
	case Exec:
		r, err := c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: container, Cmd: d.Exec})
		return fmt.Sprint(r.GetExitCode()), err
	case Update:
		_, err = c.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: container, Linux: &cri.LinuxContainerResources{CpuShares: 99}})
	}
	return "", err
}

func lists(ctx context.Context, c cri.RuntimeServiceClient, s Step, pod string) (string, error) {
	switch s.Kind {
	case ListRow:
		return list(ctx, c, &cri.ContainerFilter{LabelSelector: map[string]string{"row": row(s.At)}})
	case ListRuns:
		return list(ctx, c, &cri.ContainerFilter{PodSandboxId: pod, State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}})
	case ListPods:
		return listPods(ctx, c, nil)
	case ListReady:
		return listPods(ctx, c, &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}})
	}
	return list(ctx, c, &cri.ContainerFilter{PodSandboxId: pod})
}

func stateOf(s cri.ContainerState, code int32) string {
	if s == cri.ContainerState_CONTAINER_EXITED {
		return fmt.Sprintf("%s %d", exited, code)
	}
	return string(map[cri.ContainerState]phase{cri.ContainerState_CONTAINER_CREATED: created, cri.ContainerState_CONTAINER_RUNNING: running}[s])
}

func podState(s cri.PodSandboxState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "SANDBOX_"))
}

// listPods is pods in the order of their slots.
func listPods(ctx context.Context, c cri.RuntimeServiceClient, f *cri.PodSandboxFilter) (string, error) {
	r, err := c.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: f})
	var lines []string
	for _, p := range r.GetItems() {
		lines = append(lines, fmt.Sprintf("%s %s;", p.Metadata.Name[strings.LastIndex(p.Metadata.Name, "-")+1:], podState(p.State)))
	}
	slices.Sort(lines)
	return strings.Join(lines, ""), err
}

// list is containers in the order of their slots.
func list(ctx context.Context, c cri.RuntimeServiceClient, f *cri.ContainerFilter) (string, error) {
	r, err := c.ListContainers(ctx, &cri.ListContainersRequest{Filter: f})
	var lines []string
	for _, c := range r.GetContainers() {
		state, _, _ := strings.Cut(stateOf(c.State, 0), " ")
		lines = append(lines, fmt.Sprintf("%s %s;", c.Metadata.Name, state))
	}
	slices.Sort(lines)
	return strings.Join(lines, ""), err
}

func (d *Driver) podConfig(at int) *cri.PodSandboxConfig {
	c := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: fmt.Sprintf(podName, d.round, at), Namespace: "model", Uid: "uid"},
		Linux:    &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{}}},
	}
	d.Change(c)
	return c
}

func (d *Driver) containerConfig(at int) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: fmt.Sprint(at)}, Labels: map[string]string{"row": row(at)}, Image: &cri.ImageSpec{Image: d.Image}, Command: d.Command,
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{CpuShares: 50}, SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: d.podConfig(at % Pods).Linux.SecurityContext.NamespaceOptions,
		}},
	}
}

// kill ends a process from outside, and waits until the runtime says so.
func (d *Driver) kill(ctx context.Context, s Step) Answer {
	var info map[string]string
	var err error
	ended := func() bool {
		var r *cri.ContainerStatusResponse
		r, err = d.Node.Client(s.Kind).ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: d.id(d.containers[s.At]), Verbose: true})
		info = r.GetInfo()
		return err != nil || r.Status.State != cri.ContainerState_CONTAINER_RUNNING
	}
	if s.Kind == KillPause {
		ended = func() bool {
			var r *cri.PodSandboxStatusResponse
			c := d.Node.Client(s.Kind)
			r, err = c.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: d.id(d.pods[s.At%Pods]), Verbose: true})
			info = r.GetInfo()
			if err != nil || r.Status.State == cri.PodSandboxState_SANDBOX_READY {
				return err != nil
			}
			var left string
			left, err = list(ctx, c, &cri.ContainerFilter{PodSandboxId: r.Status.Id})
			return err != nil || !strings.Contains(left, string(running))
		}
	}
	if ended() {
		return Answer{}
	}
	var at struct{ PID int }
	if err := json.Unmarshal([]byte(info["info"]), &at); err != nil || at.PID <= 1 {
		return Answer{Class: "no pid", Said: fmt.Sprint(err)}
	}
	signal := syscall.SIGKILL
	if s.Kind == End {
		signal = syscall.SIGUSR1
	}
	p, err := os.FindProcess(at.PID) // not one that gets its number
	if err == nil {
		defer p.Release()
		err = p.Signal(signal)
	}
	if err != nil {
		return Answer{Class: "kill", Said: err.Error()}
	}
	for !ended() || err != nil && d.armed && !d.disarm() { // the next daemon learns of it, too
		time.Sleep(time.Millisecond)
		p.Signal(signal) // again, for a program that was not ready for it
	}
	return Answer{}
}

// Reset removes every pod and looks at what is left.
func (d *Driver) Reset() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if d.armed {
		d.disarm()
	}
	d.Node.Heal()
	d.round, d.calls = d.round+1, 0
	d.pods, d.containers = [Pods]string{}, [Containers]string{}
	c := d.Node.Client(List)
	list, err := c.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	errs := []error{err}
	for _, p := range list.GetItems() {
		_, err := c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id})
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.Node.Left())...)
}
