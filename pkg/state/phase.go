// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodPhase is where a pod is in its life.
type PodPhase string

// The life of a pod:
//
//	Creating ──Up──► Ready ──Down──► NotReady ──Remove──► Removing ──► (dropped)
//	    └──────────Down (teardown did not finish)──►┘
const (
	PodCreating PodPhase = "creating"
	PodReady    PodPhase = "ready"
	PodNotReady PodPhase = "notready"
	PodRemoving PodPhase = "removing"
)

// PodEvent moves a pod from phase to phase.
type PodEvent string

// What happens to pods.
const (
	PodUp     PodEvent = "up"     // pause runs, the network is there
	PodDown   PodEvent = "down"   // stopped, pause died, or a failed start could not be undone
	PodRemove PodEvent = "remove" // RemovePodSandbox began
)

// Phase is where a container is in its life.
type Phase string

// The life of a container:
//
//	Creating ─Prepared─► Created ─Launch─► Starting ─Running─► Running ─Exit─► Exited
//	                        ▲──────Withdraw──────┘ └───────────Exit────────────►┘
//	                        └──Exit (it came after its start was withdrawn)────►┘
//	any ─Remove─► Removing ─► (dropped)
const (
	Creating Phase = "creating"
	Created  Phase = "created"
	Starting Phase = "starting"
	Running  Phase = "running"
	Exited   Phase = "exited"
	Removing Phase = "removing"
)

// Event moves a container from phase to phase.
type Event string

// What happens to containers.
const (
	Prepared Event = "prepared" // root filesystem, spec and bundle exist
	Launch   Event = "launch"   // StartContainer began; the pod must be ready
	Withdraw Event = "withdraw" // the start left nothing behind: it never happened
	Run      Event = "run"      // the process runs
	Exit     Event = "exit"     // the process ended, or could not be executed
	Remove   Event = "remove"   // RemoveContainer began
)

func nextPod(p PodPhase, e PodEvent) (PodPhase, error) {
	switch {
	case e == PodUp && p == PodCreating:
		return PodReady, nil
	case e == PodDown && p != PodRemoving:
		return PodNotReady, nil
	case e == PodRemove:
		return PodRemoving, nil
	}
	return "", fmt.Errorf("pod is %s, %s is not possible: %w", p, e, errdefs.ErrFailedPrecondition)
}

func nextContainer(p Phase, e Event) (Phase, error) {
	switch {
	case e == Remove:
		return Removing, nil
	case e == Prepared && p == Creating, e == Withdraw && p == Starting:
		return Created, nil
	case e == Launch && p == Created:
		return Starting, nil
	case e == Run && p == Starting:
		return Running, nil
	case e == Exit && (p == Created || p == Starting || p == Running):
		return Exited, nil
	}
	return "", fmt.Errorf("container is %s, %s is not possible: %w", p, e, errdefs.ErrFailedPrecondition)
}

// needsReadyPod tells whether the event may happen in a ready pod only: a start
// would otherwise slip into a pod that is being stopped.
func (e Event) needsReadyPod() bool { return e == Launch }

// Live tells whether a process of the container may exist.
func (p Phase) Live() bool { return p == Starting || p == Running }

// Visible tells whether List and Status show the container. What is still
// being created, or is on its way out, has no CRI state.
func (p Phase) Visible() bool { return p != Creating && p != Removing }

// Visible tells whether List and Status show the pod. A pod being removed
// stays visible (as NotReady) until its teardown is done, so that a kubelet
// never believes that addresses are free before they are.
func (p PodPhase) Visible() bool { return p != PodCreating }

// CRI is the state kubelets are told: what is being started is still created,
// what ended is exited, and any other container is unknown.
func (p Phase) CRI() cri.ContainerState {
	switch p {
	case Creating, Created, Starting:
		return cri.ContainerState_CONTAINER_CREATED
	case Running:
		return cri.ContainerState_CONTAINER_RUNNING
	case Exited, Removing:
		return cri.ContainerState_CONTAINER_EXITED
	}
	return cri.ContainerState_CONTAINER_UNKNOWN
}
