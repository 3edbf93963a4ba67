// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/cri-shim/cri-shim/pkg/container/nriview"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// Stop ends the pod's processes and gives its addresses back. Files and
// records stay until Remove. A pod that is stopped already is stopped again,
// which finds nothing to do. ErrNotFound when there is no such pod.
func (s *Service) Stop(ctx context.Context, id state.PodID) error {
	_, err := state.Do(ctx, s.Ops, "stop pod "+string(id), func(ctx context.Context) (struct{}, error) {
		state.Stage(ctx, "wait for pod")
		release, err := s.lock(ctx, id)
		if err != nil {
			return struct{}{}, err
		}
		defer release()
		if _, err := s.Store.MovePod(id, state.PodDown, nil); err != nil && !errdefs.IsFailedPrecondition(err) {
			return struct{}{}, fmt.Errorf("stop pod: %w", err)
		}
		if err := state.Steps(ctx, s.halt(id)...); err != nil {
			return struct{}{}, fmt.Errorf("stop pod %s: %w", id, err)
		}
		return struct{}{}, nil
	})
	return err
}

// Remove stops the pod, removes its containers and forgets it. ErrNotFound
// when there is no such pod.
func (s *Service) Remove(ctx context.Context, id state.PodID) error {
	_, err := state.Do(ctx, s.Ops, "remove pod "+string(id), func(ctx context.Context) (struct{}, error) {
		state.Stage(ctx, "wait for pod")
		release, err := s.lock(ctx, id)
		if err != nil {
			return struct{}{}, err
		}
		defer release()
		if _, err := s.Store.MovePod(id, state.PodRemove, nil); err != nil {
			return struct{}{}, fmt.Errorf("remove pod: %w", err)
		}
		return struct{}{}, s.teardown(ctx, id)
	})
	return err
}

// teardown undoes everything a pod can have caused and drops its record. It
// needs only the id, may be repeated, and leaves the record when something
// could not be undone.
func (s *Service) teardown(ctx context.Context, id state.PodID) error {
	err := state.Steps(ctx, append(s.halt(id),
		state.Step{Name: "remove containers", Do: func(ctx context.Context) error { return s.removeContainers(ctx, id) }},
		state.Step{Name: "forget pause", Do: func(ctx context.Context) error { return s.Monitor.Forget(ctx, string(id)) }},
		state.Step{Name: "drop bundle", Do: func(context.Context) error { return s.Runtime.RemoveBundle(string(id)) }},
		state.Step{Name: "unmount shared memory", Do: func(context.Context) error { return sys.Unmount(s.Layout.PodShm(id)) }},
		state.Step{Name: "remove pod files", Do: func(ctx context.Context) error { return tree.Remove(ctx, s.Layout.PodFiles(id)) }},
		state.Step{Name: "remove pod cgroup", Do: func(ctx context.Context) error { return s.removePodCgroup(ctx, id) }},
		state.Step{Name: "tell plugins", Do: func(ctx context.Context) error { s.tellRemoved(ctx, id); return nil }},
		state.Step{Name: "drop record", Do: func(context.Context) error { return s.Store.DropPod(id) }},
	)...)
	if err != nil {
		return fmt.Errorf("tear down pod %s: %w", id, err)
	}
	return nil
}

func (s *Service) removeContainers(ctx context.Context, id state.PodID) error {
	for _, c := range s.Store.ContainersOf(id) {
		if err := s.Containers.Remove(ctx, c.ID); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// halt ends every process of the pod and releases its network: containers
// first, so that plugins find the pod's network and pause while they are told,
// then pause and network side by side, for CNI DEL is what takes long.
func (s *Service) halt(id state.PodID) []state.Step {
	return []state.Step{
		{Name: "stop containers", Do: func(ctx context.Context) error { return s.haltContainers(ctx, id) }},
		{Name: "end pause and release network", Do: func(ctx context.Context) error {
			p, err := s.Store.Pod(string(id))
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			if errdefs.IsNotFound(err) {
				p = state.Pod{ID: id, NetNS: s.Layout.NetNS(id), Handler: s.Runtime.Keeper(string(id))}
			}
			s.Plugins.StopPodSandbox(ctx, nriview.Pod(p))
			// No errgroup context: a network that fails must not leave pause behind.
			var g errgroup.Group
			g.Go(func() error { return s.haltPause(ctx, p) })
			g.Go(func() error { return s.releaseNetwork(ctx, p) })
			return g.Wait()
		}},
	}
}

// haltContainers kills the pod's containers.
func (s *Service) haltContainers(ctx context.Context, id state.PodID) error {
	var g errgroup.Group
	for _, c := range s.Store.ContainersOf(id) {
		g.Go(func() error {
			if err := s.Containers.Stop(ctx, c.ID, 0); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			return s.Containers.Settle(ctx, c.ID)
		})
	}
	return g.Wait()
}

// haltPause ends pause, which holds the namespaces.
func (s *Service) haltPause(ctx context.Context, p state.Pod) error {
	cgroup.Thaw(ctx, cgroup.Dirs(p.Cgroup))
	if err := s.Runtime.Kill(ctx, p.Handler, string(p.ID)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill pause: %w", err)
	}
	if err := state.Point(ctx, "pause is killed"); err != nil {
		return err
	}
	if err := cgroup.End(ctx, p.Cgroup); err != nil {
		return err
	}
	return s.Runtime.Delete(ctx, p.Handler, string(p.ID))
}

// releaseNetwork gives addresses and ports back, then unpins the namespaces.
func (s *Service) releaseNetwork(ctx context.Context, p state.Pod) error {
	if p.NetNS != "" {
		if err := s.detach(ctx, p); err != nil {
			return err
		}
	}
	return netns.Remove(s.Layout.UserNS(p.ID))
}

func (s *Service) detach(ctx context.Context, p state.Pod) error {
	del := s.Network.Del
	if p.Config == nil { // it has no record
		del = s.Network.DelLost
	}
	if err := del(ctx, s.attachment(p)); err != nil {
		return err
	}
	if err := state.Point(ctx, "network is released"); err != nil {
		return err
	}
	return netns.Remove(p.NetNS)
}

// tellRemoved tells plugins that a pod is gone and frees its SELinux level. A
// pod without a record was never theirs, and its level is not known.
func (s *Service) tellRemoved(ctx context.Context, id state.PodID) {
	if p, err := s.Store.Pod(string(id)); err == nil {
		s.Plugins.RemovePodSandbox(ctx, nriview.Pod(p))
		confine.ReleaseLabels(confine.Labels{Process: p.ProcessLabel, Mount: p.MountLabel})
	}
}

// removePodCgroup removes the pod's cgroup if it is ours and not the kubelet's.
func (s *Service) removePodCgroup(ctx context.Context, id state.PodID) error {
	p, err := s.Store.Pod(string(id))
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil && p.Config.GetLinux().GetCgroupParent() != "" {
		return nil
	}
	return cgroup.Remove(ctx, s.cgroupParent(id, nil)) // empty, so nothing, under systemd
}

// Died handles the unexpected end of a pause process: the pod is
// NotReady with a reason and its containers end, for their namespaces are
// held by nothing that reaps. The kubelet does the rest. A run that is under way
// is told, and fails. ErrNotFound when id is no pod.
func (s *Service) Died(ctx context.Context, id state.PodID, how string) error {
	s.starts.change(id, func(p *pause) { p.ended = how }) // before the look at the phase: see commit
	p, err := s.Store.Pod(string(id))
	if err != nil {
		return err
	}
	if p.Phase != state.PodReady {
		return nil // its run fails, or Stop or Remove asked for it
	}
	s.Log.Warn("pause ended, pod is not ready", "pod", id, "how", how)
	_, err = s.Store.MovePod(id, state.PodDown, func(p *state.Pod) {
		p.Reason, p.Message, p.PausePID = "PauseExited", "the pause process "+how, 0
	})
	if err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	s.endContainers(id)
	return nil
}

// endContainers ends the containers of a pod that is not ready, in the
// background.
func (s *Service) endContainers(id state.PodID) {
	state.Go(s.Ops, "end containers of "+string(id), func(ctx context.Context) error {
		return s.haltContainers(ctx, id)
	}, func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			s.Log.Error("containers of a dead pod not ended", "pod", id, "err", err)
		}
	})
}
