// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/container/nriview"
	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// plugin is what plugins see of a container.
func (s *Service) plugin(c state.Container) nri.Container {
	return nriview.Container(c, s.Runtime.Spec)
}

// Visible is everything clients can see, for a plugin that connects late.
func (s *Service) Visible() (pods []nri.Pod, containers []nri.Container) {
	for p := range s.Store.Pods() {
		if p.Phase.Visible() {
			pods = append(pods, nriview.Pod(p))
		}
	}
	for c := range s.Store.Containers() {
		if c.Phase.Visible() {
			containers = append(containers, s.plugin(c))
		}
	}
	return pods, containers
}

// podOf is the container's pod for plugins. A pod whose record is gone is told
// by its id alone.
func (s *Service) podOf(c state.Container) nri.Pod {
	p, err := s.Store.Pod(string(c.Pod))
	if err != nil {
		return nri.Pod{ID: string(c.Pod)}
	}
	return nriview.Pod(p)
}

// ApplyUpdates does to other containers what plugins asked for, and returns
// what could not be done. The caller holds no container's lock.
func (s *Service) ApplyUpdates(ctx context.Context, updates []nri.Update) ([]nri.Update, error) {
	var failed []nri.Update
	var errs []error
	for _, u := range updates {
		err := s.applyUpdate(ctx, u)
		switch {
		case err == nil:
		case u.IgnoreFailure || errdefs.IsNotFound(err):
			s.Log.Warn("plugin's update not applied", "container", u.ContainerID, "err", err)
		default:
			failed, errs = append(failed, u), append(errs, err)
		}
	}
	return failed, errors.Join(errs...)
}

func (s *Service) applyUpdate(ctx context.Context, u nri.Update) error {
	id := state.ContainerID(u.ContainerID)
	if u.Evict {
		s.Log.Info("plugin evicts container", "container", id, "reason", u.Reason)
		return s.Stop(ctx, id, 0)
	}
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return s.change(ctx, id, u.Resources(), func(spec *specs.Spec) error { return s.Plugins.Apply(spec, u) })
}

// settlePlugins applies the updates a call brought, once its locks are free.
func (s *Service) settlePlugins(ctx context.Context, updates []nri.Update) error {
	if len(updates) == 0 {
		return nil
	}
	if _, err := s.ApplyUpdates(ctx, updates); err != nil {
		return fmt.Errorf("apply the plugins' updates of other containers: %w", err)
	}
	return nil
}

// settleLater applies the updates a call brought that holds a container's lock:
// they are of other containers, whose locks must not be waited for here.
func (s *Service) settleLater(id state.ContainerID, updates []nri.Update) {
	if len(updates) == 0 {
		return
	}
	state.Go(s.Ops, "apply updates after "+string(id), func(ctx context.Context) error { return s.settlePlugins(ctx, updates) },
		func(err error) {
			if err != nil {
				s.Log.Warn("plugins' updates not applied", "container", id, "err", err)
			}
		})
}
