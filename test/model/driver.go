// SPDX-License-Identifier: Apache-2.0

package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is the machine that a runtime's daemon runs on, and what a test does to it.
type Node interface {
	Client() cri.RuntimeServiceClient // of the daemon that runs now
	Crashes
	ReplaceMonitor()
	Fault(kind Kind) // FailRun, FailAdd or FailDel
	Heal()           // takes back every fault that has not struck
	Left() error     // what is left on the machine once all pods are removed
}

// Crashes are the ways in which a daemon ends.
type Crashes interface {
	Crash()            // ends the daemon and starts the next one, which has recovered when it returns
	CrashAtStep(n int) // the daemon dies at the nth step of the next call
	Survived() bool    // takes a CrashAtStep back, and tells whether it did not strike; the next daemon runs then
}

// Driver is a runtime behind the CRI.
type Driver struct {
	Node    Node
	Image   string
	Command []string // exits with 0 at SIGTERM
	Change  func(*cri.PodSandboxConfig)
	Steps   func() int // a number of steps for CrashAtStep

	round      int // of sequences, which makes names unique
	pods       [Pods]string
	containers [Containers]string
	armed      bool
}

// patience bounds every call and every wait.
const patience = 30 * time.Second

var unknown = strings.Repeat("0", 64)

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
	case Crash:
		d.disarm()
		d.Node.Heal()
		d.Node.Crash()
	case KillMonitor:
		d.Node.ReplaceMonitor()
	case KillProcess, KillPause:
		return d.kill(ctx, s)
	default:
		said, err := d.call(ctx, s)
		if d.armed {
			d.disarm()
		}
		if err != nil {
			return Answer{Class: status.Code(err).String()}
		}
		return Answer{Said: said}
	}
	return Answer{}
}

func (d *Driver) disarm() {
	if d.armed = false; !d.Node.Survived() {
		d.Node.Heal()
	}
}

func id(known string) string {
	if known == "" {
		return unknown
	}
	return known
}

func (d *Driver) call(ctx context.Context, s Step) (said string, err error) {
	c, pod := d.Node.Client(), id(d.pods[s.At%Pods])
	container := id(d.containers[s.At])
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
		return map[cri.PodSandboxState]string{cri.PodSandboxState_SANDBOX_NOTREADY: "notready"}[r.GetStatus().GetState()] +
			map[bool]string{true: "ready"}[err == nil && r.Status.State == cri.PodSandboxState_SANDBOX_READY], err
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
	case List:
		return d.list(ctx, pod)
	case Exec:
		r, err := c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: container, Cmd: []string{"/bin/sh", "-c", "exit 3"}})
		return fmt.Sprint(r.GetExitCode()), err
	case Update:
		_, err = c.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: container, Linux: &cri.LinuxContainerResources{CpuShares: 99}})
	}
	return "", err
}

func stateOf(s cri.ContainerState, code int32) string {
	if s == cri.ContainerState_CONTAINER_EXITED {
		return fmt.Sprintf("%s %d", exited, code)
	}
	return string(map[cri.ContainerState]phase{cri.ContainerState_CONTAINER_CREATED: created, cri.ContainerState_CONTAINER_RUNNING: running}[s])
}

// list is the containers of a pod in the order of their slots.
func (d *Driver) list(ctx context.Context, pod string) (string, error) {
	r, err := d.Node.Client().ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: pod}})
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
		Metadata: &cri.PodSandboxMetadata{Name: fmt.Sprintf("pod-%d-%d", d.round, at), Namespace: "model", Uid: "uid"},
		Linux:    &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{}}},
	}
	d.Change(c)
	return c
}

func (d *Driver) containerConfig(at int) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: fmt.Sprint(at)}, Image: &cri.ImageSpec{Image: d.Image}, Command: d.Command,
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{CpuShares: 50}, SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: d.podConfig(at % Pods).Linux.SecurityContext.NamespaceOptions,
		}},
	}
}

// kill ends a process from outside, and waits until the runtime says so.
func (d *Driver) kill(ctx context.Context, s Step) Answer {
	c := d.Node.Client()
	var info map[string]string
	ended := func() bool {
		r, err := c.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id(d.containers[s.At]), Verbose: true})
		info = r.GetInfo()
		return err != nil || r.Status.State != cri.ContainerState_CONTAINER_RUNNING
	}
	if s.Kind == KillPause {
		ended = func() bool {
			r, err := c.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id(d.pods[s.At%Pods]), Verbose: true})
			info = r.GetInfo()
			if err != nil || r.Status.State == cri.PodSandboxState_SANDBOX_READY {
				return err != nil
			}
			list, err := d.list(ctx, r.Status.Id)
			return err != nil || !strings.Contains(list, string(running))
		}
	}
	if ended() {
		return Answer{}
	}
	var at struct{ PID int }
	if err := json.Unmarshal([]byte(info["info"]), &at); err != nil || at.PID <= 1 {
		return Answer{Class: "no pid", Said: fmt.Sprint(err)}
	}
	if err := syscall.Kill(at.PID, syscall.SIGKILL); err != nil {
		return Answer{Class: "kill", Said: err.Error()}
	}
	for !ended() {
		time.Sleep(time.Millisecond)
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
	d.round++
	d.pods, d.containers = [Pods]string{}, [Containers]string{}
	c := d.Node.Client()
	list, err := c.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	errs := []error{err}
	for _, p := range list.GetItems() {
		_, err := c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id})
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.Node.Left())...)
}
