// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// PluginPod is a pod as NRI plugins see it.
func PluginPod(p state.Pod) nri.Pod {
	m := p.Config.GetMetadata()
	return nri.Pod{
		ID: string(p.ID), Name: m.GetName(), UID: m.GetUid(), Namespace: m.GetNamespace(),
		Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(),
		RuntimeHandler: p.Handler, CgroupParent: p.CgroupParent, CgroupsPath: p.Cgroup,
		NetNS: p.NetNS, PID: p.PausePID, IPs: p.IPs,
		Stopped:  p.Phase == state.PodNotReady || p.Phase == state.PodRemoving,
		Overhead: p.Overhead, Resources: p.Resources,
	}
}

// plugin is a container as NRI plugins see it.
func (s *Service) plugin(c state.Container) nri.Container {
	return nri.Container{
		ID: string(c.ID), PodID: string(c.Pod), Name: c.Config.GetMetadata().GetName(),
		State: c.Phase.CRI(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		Spec: func() (*specs.Spec, error) { return s.Runtime.Spec(string(c.ID)) },
		PID:  c.PID, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt,
		ExitCode: c.ExitCode, StatusReason: c.Reason, StatusMessage: c.Message,
		ImageName: c.ImageName, ImageID: c.ImageID,
		Seccomp:    c.Config.GetLinux().GetSecurityContext().GetSeccomp(),
		CDIDevices: cdiNames(c.Config),
	}
}

func cdiNames(c *cri.ContainerConfig) []string {
	var names []string
	for _, d := range c.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	return names
}

// Visible is everything clients can see, for a plugin that connects late.
func (s *Service) Visible() (pods []nri.Pod, containers []nri.Container) {
	for p := range s.Store.Pods() {
		if p.Phase.Visible() {
			pods = append(pods, PluginPod(p))
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
	return PluginPod(p)
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

// PluginHost is what adjustments need to know of the machine.
func PluginHost(host oci.Host, lookup oci.Lookup) nri.Host {
	return nri.Host{
		Facts: host.Facts,
		Resources: func(spec *specs.Spec, r *cri.LinuxContainerResources) error {
			return limits.Update(spec, r, host.Facts)
		},
		CDI: lookup.CDI, Propagation: lookup.Propagation,
	}
}
