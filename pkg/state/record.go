// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodID is the 64 hex digit id of a pod sandbox.
type PodID string

// ContainerID is the 64 hex digit id of a container.
type ContainerID string

// Pod is the record of one pod sandbox. Values are immutable once they are in
// the store: change a copy through Move or Update.
type Pod struct {
	ID        PodID     `json:"id"`
	Phase     PodPhase  `json:"phase"`
	Handler   string    `json:"handler,omitempty"` // RuntimeClass handler as asked for; "" is the default
	CreatedAt time.Time `json:"createdAt"`
	NetNS     string    `json:"netns,omitempty"` // pinned network namespace; "" on the host's network
	IPs       []string  `json:"ips,omitempty"`   // primary first
	PausePID  int       `json:"pausePid,omitempty"`
	// CgroupParent is the pod's cgroup: the kubelet's, or one of our own that goes with the pod.
	CgroupParent string `json:"cgroupParent,omitempty"`
	Cgroup       string `json:"cgroup,omitempty"` // OCI cgroupsPath of the pause container
	// ProcessLabel and MountLabel are the pod's SELinux contexts; empty without SELinux.
	ProcessLabel string `json:"processLabel,omitempty"`
	MountLabel   string `json:"mountLabel,omitempty"`
	// Reason and Message tell why a pod is not ready; empty while it is.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Trace lists how long each step of RunPodSandbox took.
	Trace []Span `json:"trace,omitempty"`

	Config    *cri.PodSandboxConfig        `json:"-"`
	Overhead  *cri.LinuxContainerResources `json:"-"` // last UpdatePodSandboxResources, or the config's
	Resources *cri.LinuxContainerResources `json:"-"`
}

// Span is one timed step of an operation.
type Span struct {
	Step string        `json:"step"`
	Took time.Duration `json:"took"` // nanoseconds
}

// Container is the record of one container; immutable like Pod.
type Container struct {
	ID         ContainerID `json:"id"`
	Pod        PodID       `json:"pod"`
	Phase      Phase       `json:"phase"`
	ImageID    string      `json:"imageId"`             // config digest, sha256:…
	ImageName  string      `json:"imageName,omitempty"` // as ContainerStatus reports it
	CreatedAt  time.Time   `json:"createdAt"`
	StartedAt  time.Time   `json:"startedAt,omitzero"`
	FinishedAt time.Time   `json:"finishedAt,omitzero"`
	PID        int         `json:"pid,omitempty"`
	ExitCode   int32       `json:"exitCode,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	Message    string      `json:"message,omitempty"`
	StopSignal int32       `json:"stopSignal,omitempty"` // cri.Signal, as Start found it
	// StopSignaled is when the stop signal was sent; zero before. It is sent once.
	StopSignaled time.Time `json:"stopSignaled,omitzero"`
	LogPath      string    `json:"logPath,omitempty"` // absolute; "" keeps no log
	Cgroup       string    `json:"cgroup,omitempty"`  // OCI cgroupsPath
	Volumes      []Volume  `json:"volumes,omitempty"` // image volumes this container mounts
	Trace        []Span    `json:"trace,omitempty"`
	// StartScore is the oom_score_adj that the runtime starts commands with: the container's own at its start. nil:
	// no update has changed that.
	StartScore *int `json:"startScore,omitempty"`

	Config    *cri.ContainerConfig    `json:"-"`
	User      *cri.ContainerUser      `json:"-"`
	Resources *cri.ContainerResources `json:"-"`
	Mounts    []*cri.Mount            `json:"-"` // as reported by ContainerStatus
}

// Volume is one image mounted read-only for a container.
type Volume struct {
	Index   int    `json:"index"` // of the mount in the container's config
	ImageID string `json:"imageId"`
	Key     string `json:"key"`    // snapshot key in the image store
	Target  string `json:"target"` // host path of the mount
}

// Name is what makes a pod the same pod when a request is retried.
func (p Pod) Name() string { return PodName(p.Config) }

// Name is what makes a container the same container when a request is retried.
func (c Container) Name() string { return ContainerName(c.Pod, c.Config) }

// PodName builds the retry key of a sandbox config: kubelets repeat a request
// with the same namespace, name, uid and attempt after a timeout.
func PodName(c *cri.PodSandboxConfig) string {
	m := c.GetMetadata()
	return fmt.Sprintf("pod/%s/%s/%s/%d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt())
}

// ContainerName builds the retry key of a container config within its pod.
func ContainerName(pod PodID, c *cri.ContainerConfig) string {
	m := c.GetMetadata()
	return fmt.Sprintf("container/%s/%s/%d", pod, m.GetName(), m.GetAttempt())
}
