// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// UpdateResources changes the limits of a container: in its cgroup while it
// runs, and in its spec either way, so that a start and a status agree.
func (s *Service) UpdateResources(ctx context.Context, id state.ContainerID, r *cri.LinuxContainerResources) error {
	// Updates are not joined: two with different limits are two updates.
	name := "update container " + string(id) + " " + state.NewID()
	updates, err := state.Do(ctx, s.Ops, name, func(ctx context.Context) ([]nri.Update, error) {
		state.Stage(ctx, "wait for container")
		release, err := s.lock(ctx, id)
		if err != nil {
			return nil, err
		}
		defer release()
		return s.update(ctx, id, r)
	})
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	return s.settlePlugins(ctx, updates)
}

func (s *Service) update(ctx context.Context, id state.ContainerID, r *cri.LinuxContainerResources) ([]nri.Update, error) {
	c, err := s.Store.Container(string(id))
	if err != nil {
		return nil, err
	}
	r, updates, err := s.Plugins.UpdateContainer(ctx, s.podOf(c), s.plugin(c), r)
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, id, r, func(spec *specs.Spec) error { return limits.Update(spec, r, s.Host.Facts) })
	if err != nil {
		return nil, err
	}
	if c, err = s.Store.Container(string(id)); err == nil {
		s.Plugins.PostUpdateContainer(ctx, s.podOf(c), s.plugin(c))
	}
	return updates, err
}

// change applies new resources to the container's spec by apply, to its cgroup
// while it runs, and to its record. The caller holds its lock.
func (s *Service) change(ctx context.Context, id state.ContainerID, r *cri.LinuxContainerResources, apply func(*specs.Spec) error) error {
	c, err := s.Store.Container(string(id))
	if err != nil {
		return err
	}
	if c.Phase != state.Created && c.Phase != state.Running {
		return fmt.Errorf("it is %s: %w", c.Phase, errdefs.ErrFailedPrecondition)
	}
	spec, err := s.Runtime.Spec(string(id))
	if err != nil {
		return err
	}
	before := limits.SpecScore(spec)
	if err := apply(spec); err != nil {
		return err
	}
	return state.Steps(ctx,
		state.Step{Name: "update cgroup", Do: func(ctx context.Context) error {
			if c.Phase != state.Running {
				return nil
			}
			if err := s.Runtime.Update(ctx, s.handlerOf(c), string(id), spec.Linux.Resources); err != nil {
				return err
			}
			return updateHugepages(c, spec)
		}},
		state.Step{Name: "save spec", Do: func(context.Context) error { return s.Runtime.WriteBundle(string(id), spec) }},
		state.Step{Name: "record resources", Do: func(context.Context) error {
			_, err := s.Store.UpdateContainer(id, func(c *state.Container) {
				c.Resources = limits.Reported(limits.MergeAsked(c.Resources.GetLinux(), r), spec)
				if c.Phase == state.Running && c.StartScore == nil && before != limits.SpecScore(spec) {
					c.StartScore = &before
				}
			})
			return err
		}},
		// After the record: a command that starts meanwhile is among the processes, or sees the record.
		state.Step{Name: "move oom_score_adj", Do: func(ctx context.Context) error {
			if c.Phase == state.Running {
				s.moveScore(ctx, c.ID, cgroup.Dirs(ownCgroup(c)), before, limits.SpecScore(spec))
			}
			return nil
		}},
	)
}

// updateHugepages sets the limits of huge pages, which runtimes' update commands
// leave out.
func updateHugepages(c state.Container, spec *specs.Spec) error {
	dirs := cgroup.Dirs(ownCgroup(c))
	for _, l := range spec.Linux.Resources.HugepageLimits {
		if err := cgroup.SetHugepageLimit(dirs, l.Pagesize, l.Limit); err != nil {
			return fmt.Errorf("limit huge pages: %w", err)
		}
	}
	return nil
}

// moveScore changes the oom_score_adj of processes, which is no matter of
// cgroups and of the runtime's update command. A process that may not be given
// it is no reason to fail: its limits are set.
func (s *Service) moveScore(ctx context.Context, id state.ContainerID, dirs []string, from, to int) {
	if err := cgroup.MoveOOMScoreAdj(ctx, dirs, from, to); err != nil {
		s.Log.Warn("oom_score_adj not applied to every process", "container", id, "err", err)
	}
}

// moveExecScore gives a command that was just started the oom_score_adj of its
// container after updates. Runtimes start it with that of the container's start.
func (s *Service) moveExecScore(ctx context.Context, id state.ContainerID, group cgroup.Sub) {
	c, err := s.Store.Container(string(id))
	if err != nil || c.StartScore == nil {
		return
	}
	s.moveScore(ctx, id, []string{group.Dir}, *c.StartScore, int(c.Resources.GetLinux().GetOomScoreAdj()))
}
