// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container is a container as plugins see it. The maps are only read.
type Container struct {
	ID, PodID, Name     string
	State               cri.ContainerState
	Labels, Annotations map[string]string
	// Spec returns the container's spec, which is only read. It is called only to build a message, so it may be slow;
	// nil, or an error, leaves out what the spec would tell.
	Spec func() (*specs.Spec, error)
	PID  int // 0 when it does not run
	// Times are zero for what has not happened.
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	StatusReason, StatusMessage      string
	ImageName                        string
	ImageID                          string // of the image's configuration, sha256:…
	Seccomp                          *cri.SecurityProfile
	CDIDevices                       []string // as the kubelet asked for them
}

// CreateContainer announces a container whose spec is built and applies what plugins adjust to spec, in place; then it
// runs commit, which must write spec and make the container visible to State; no plugin is synchronised in between.
// commit runs unless a plugin refuses or its adjustment cannot be made, and must take no lock of another object. The
// updates are of other containers: apply them once the caller's locks allow it. After an error undo the container with
// RemoveContainer; spec may be half adjusted.
//
// Plugins may move the container to another cgroup: after the call spec.Linux.CgroupsPath is where it will be.
func (s *Service) CreateContainer(ctx context.Context, pod Pod, c Container, spec *specs.Spec, commit func() error) ([]Update, error) {
	if s == nil {
		return nil, commit()
	}
	block := s.nri.BlockPluginSync()
	defer block.Unblock()
	s.ledger.set(c.ID, announced)
	ctx, evicted := collectEvictions(ctx)
	c.Spec = func() (*specs.Spec, error) { return spec, nil }
	var message *api.Container
	var reply *adaptation.CreateContainerResponse
	err := s.tellBlocked(ctx, "create container", func() (err error) {
		message = s.containerMessage(c)
		// The library writes plugins' changes into the message, for the next plugin to see.
		message.Labels, message.Annotations = maps.Clone(message.Labels), maps.Clone(message.Annotations)
		reply, err = s.nri.CreateContainer(ctx, &adaptation.CreateContainerRequest{Pod: podMessage(pod), Container: message})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.adjust(spec, reply.GetAdjust(), message); err != nil {
		return nil, fmt.Errorf("nri: %w", err)
	}
	return fromReply(reply.GetUpdate(), evicted.list), commit()
}

// PostCreateContainer tells of a created container, as its spec came out.
func (s *Service) PostCreateContainer(ctx context.Context, pod Pod, c Container) {
	if s == nil {
		return
	}
	s.notify(ctx, "container created", func() error {
		return s.nri.PostCreateContainer(ctx, &adaptation.PostCreateContainerRequest{Pod: podMessage(pod), Container: s.containerMessage(c)})
	})
}

// StartContainer asks about a container that is about to be started. After an error it must not be.
func (s *Service) StartContainer(ctx context.Context, pod Pod, c Container) error {
	if s == nil {
		return nil
	}
	s.ledger.move(c.ID, announced, live)
	return s.tell(ctx, "start container", func() error {
		return s.nri.StartContainer(ctx, &adaptation.StartContainerRequest{Pod: podMessage(pod), Container: s.containerMessage(c)})
	})
}

// PostStartContainer tells of a container that runs.
func (s *Service) PostStartContainer(ctx context.Context, pod Pod, c Container) {
	if s == nil {
		return
	}
	s.notify(ctx, "container started", func() error {
		return s.nri.PostStartContainer(ctx, &adaptation.PostStartContainerRequest{Pod: podMessage(pod), Container: s.containerMessage(c)})
	})
}

// UpdateContainer asks about new resources of a container before they are applied and returns those to apply: r
// itself, or what plugins made of it. The updates are of other containers, and of this one where a plugin sets what r
// has no field for; apply them once the caller's locks allow it. After an error nothing must be applied.
func (s *Service) UpdateContainer(ctx context.Context, pod Pod, c Container, r *cri.LinuxContainerResources) (*cri.LinuxContainerResources, []Update, error) {
	if s == nil {
		return r, nil, nil
	}
	ctx, evicted := collectEvictions(ctx)
	var updates []Update
	err := s.tell(ctx, "update container", func() error {
		reply, err := s.nri.UpdateContainer(ctx, &adaptation.UpdateContainerRequest{
			Pod: podMessage(pod), Container: s.containerMessage(c), LinuxResources: fromCRI(r),
		})
		if err != nil {
			return err
		}
		all := fromReply(reply.GetUpdate(), evicted.list)
		r, updates = splitOwn(c.ID, r, all)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return r, updates, nil
}

// PostUpdateContainer tells of a container's new resources, once applied.
func (s *Service) PostUpdateContainer(ctx context.Context, pod Pod, c Container) {
	if s == nil {
		return
	}
	s.notify(ctx, "container updated", func() error {
		return s.nri.PostUpdateContainer(ctx, &adaptation.PostUpdateContainerRequest{Pod: podMessage(pod), Container: s.containerMessage(c)})
	})
}

// StopContainer tells that a container has ended, by itself or because it was stopped. Repeated calls, and calls for a
// container that was not started, do nothing. The updates are of other containers.
func (s *Service) StopContainer(ctx context.Context, pod Pod, c Container) []Update {
	if s == nil || !s.ledger.move(c.ID, live, stopped) {
		return nil
	}
	return s.stopContainer(ctx, pod, c)
}

func (s *Service) stopContainer(ctx context.Context, pod Pod, c Container) (updates []Update) {
	s.notify(ctx, "stop container", func() error {
		reply, err := s.nri.StopContainer(ctx, &adaptation.StopContainerRequest{Pod: podMessage(pod), Container: s.containerMessage(c)})
		updates = fromReply(reply.GetUpdate(), nil)
		return err
	})
	return updates
}

// RemoveContainer tells that a container is gone; that it ended first, if it was started and that was not told.
// Repeated calls, and calls for a container that was never announced, do nothing. The updates are of other containers.
func (s *Service) RemoveContainer(ctx context.Context, pod Pod, c Container) (updates []Update) {
	if s == nil {
		return nil
	}
	was := s.ledger.drop(c.ID)
	if was == 0 {
		return nil
	}
	if was == live {
		updates = s.stopContainer(ctx, pod, c)
	}
	s.notify(ctx, "remove container", func() error {
		return s.nri.RemoveContainer(ctx, &adaptation.RemoveContainerRequest{Pod: podMessage(pod), Container: s.containerMessage(c)})
	})
	return updates
}
