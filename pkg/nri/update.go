// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Update is what a plugin wants of a container that exists: new resources, or its end.
type Update struct {
	ContainerID   string
	IgnoreFailure bool // the operation that brought this update goes on without it
	Evict         bool // stop the container; there are no resources then
	Reason        string

	resources *api.LinuxResources
}

// Resources are those that CRI has fields for, to merge into a container's record; zero fields stay as they are.
func (u Update) Resources() *cri.LinuxContainerResources { return toCRI(u.resources) }

// Apply sets an update's resources in a container's spec; running containers then need spec.Linux.Resources. Errors
// are those of Host.Resources, ErrInvalidArgument for an eviction and ErrNotImplemented.
func (s *Service) Apply(spec *specs.Spec, u Update) error {
	if s == nil || u.Evict || spec.Linux == nil {
		return fmt.Errorf("apply update of container %s: nothing it can be applied to: %w", u.ContainerID, errdefs.ErrInvalidArgument)
	}
	if err := s.resources(spec, u.resources); err != nil {
		return fmt.Errorf("apply update of container %s: %w", u.ContainerID, err)
	}
	return nil
}

// fromReply lists what plugins ask for in reply to a request. The library may put nil in.
func fromReply(updates []*api.ContainerUpdate, evictions []*api.ContainerEviction) []Update {
	var out []Update
	for _, u := range updates {
		if u != nil {
			out = append(out, Update{ContainerID: u.GetContainerId(), IgnoreFailure: u.GetIgnoreFailure(), resources: u.GetLinux().GetResources()})
		}
	}
	for _, e := range evictions {
		out = append(out, Update{ContainerID: e.GetContainerId(), Evict: true, Reason: e.GetReason()})
	}
	return out
}

// splitOwn takes a container's own update out of all: asked is what it was to be updated to, next what plugins made of
// it. What CRI has no field for stays in the rest.
func splitOwn(id string, asked *cri.LinuxContainerResources, all []Update) (next *cri.LinuxContainerResources, rest []Update) {
	next = asked
	for _, u := range all {
		if u.ContainerID != id || u.Evict {
			rest = append(rest, u)
			continue
		}
		own := u.Resources()
		next = proto.Clone(asked).(*cri.LinuxContainerResources)
		if len(own.GetHugepageLimits()) > 0 {
			next.HugepageLimits = nil // own has all of them
		}
		proto.Merge(next, own)
		if u.resources = beyondCRI(u.resources); u.resources != nil {
			rest = append(rest, u)
		}
	}
	return next, rest
}

// update is the library's way to say that a plugin asks for updates on its own.
func (s *Service) update(ctx context.Context, updates []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	var evictions []*api.ContainerEviction
	if c := collected(ctx); c != nil {
		evictions = c.list
	}
	all := fromReply(updates, evictions)
	if len(all) == 0 {
		return nil, nil
	}
	failed, err := s.o.Update(ctx, all)
	var out []*api.ContainerUpdate
	for _, u := range failed {
		out = append(out, &api.ContainerUpdate{
			ContainerId: u.ContainerID, IgnoreFailure: u.IgnoreFailure, Linux: &api.LinuxContainerUpdate{Resources: u.resources},
		})
	}
	if err != nil {
		return out, errors.New(err.Error()) // it goes to a plugin, which knows no classes
	}
	return out, nil
}

// later queues what a plugin asks for in reply to its synchronisation: while that lasts, operations wait for it with
// their objects locked, which applying an update would wait for.
func (s *Service) later(updates []Update) {
	if len(updates) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, updates...)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) applyPending(ctx context.Context) {
	s.mu.Lock()
	updates := s.pending
	s.pending = nil
	s.mu.Unlock()
	failed, err := s.o.Update(ctx, updates)
	for _, u := range failed {
		s.log.Warn("plugin's update not applied", "container", u.ContainerID, "err", err)
	}
	if err != nil && len(failed) == 0 {
		s.log.Warn("plugins' updates not applied", "err", err)
	}
}
