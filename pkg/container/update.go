// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/state"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateResources changes the limits of a container: in its cgroup while it
// runs, and in its spec either way, so that a start and a status agree.
func (s *Service) UpdateResources(ctx context.Context, id state.ContainerID, r *cri.LinuxContainerResources) error {
	name := "update container " + string(id)
	_, err := state.Do(ctx, s.Ops, fmt.Sprintf("%s %p", name, r), func(ctx context.Context) (struct{}, error) {
		state.Stage(ctx, "wait for container")
		release, err := s.lock(ctx, id)
		if err != nil {
			return struct{}{}, err
		}
		defer release()
		return struct{}{}, s.update(ctx, id, r)
	})
	return err
}

func (s *Service) update(ctx context.Context, id state.ContainerID, r *cri.LinuxContainerResources) error {
	c, err := s.Store.Container(string(id))
	if err != nil {
		return err
	}
	if c.Phase != state.Created && c.Phase != state.Running {
		return fmt.Errorf("update container %s: it is %s: %w", id, c.Phase, errdefs.ErrFailedPrecondition)
	}
	spec, err := s.Runtime.Spec(string(id))
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	if err := oci.UpdateResources(spec, r, s.Host); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	if c.Phase == state.Running {
		state.Stage(ctx, "update cgroup")
		if err := s.Runtime.Update(ctx, s.handlerOf(c), string(id), spec.Linux.Resources); err != nil {
			return fmt.Errorf("update container %s: %w", id, err)
		}
	}
	if err := s.Runtime.WriteBundle(string(id), spec); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	_, err = s.Store.UpdateContainer(id, func(c *state.Container) {
		c.Resources = &cri.ContainerResources{Linux: mergeResources(c.Resources.GetLinux(), r)}
	})
	return err
}

// mergeResources keeps the old value of what an update does not mention.
func mergeResources(old, update *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	if old == nil {
		old = &cri.LinuxContainerResources{}
	}
	merged := proto.Clone(old).(*cri.LinuxContainerResources)
	if len(update.GetHugepageLimits()) > 0 {
		merged.HugepageLimits = nil // the list is replaced, not appended to
	}
	proto.Merge(merged, update)
	return merged
}
