// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// Remove ends the container if it runs and removes everything of it but its
// log file, which is the kubelet's. ErrNotFound when there is none.
func (s *Service) Remove(ctx context.Context, id state.ContainerID) error {
	_, err := state.Do(ctx, s.Ops, "remove container "+string(id), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.remove(ctx, id)
	})
	return err
}

func (s *Service) remove(ctx context.Context, id state.ContainerID) error {
	state.Stage(ctx, "stop container")
	if err := s.Stop(ctx, id, 0); err != nil {
		return fmt.Errorf("remove container: %w", err)
	}
	state.Stage(ctx, "wait for container")
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if _, err := s.Store.MoveContainer(id, state.Remove, nil); err != nil {
		return fmt.Errorf("remove container: %w", err)
	}
	return s.teardown(ctx, id)
}

// teardown undoes everything a container can have caused and then drops its
// record. It needs only the id, may be repeated, and stops at the first thing
// that cannot be undone, with the record still there to say so.
func (s *Service) teardown(ctx context.Context, id state.ContainerID) error {
	c, err := s.Store.Container(string(id))
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if errdefs.IsNotFound(err) {
		c = state.Container{ID: id}
	}
	key := string(id)
	err = state.Steps(ctx,
		state.Step{Name: "end processes", Do: func(ctx context.Context) error { return s.deleteRuntime(ctx, c) }},
		state.Step{Name: "tell monitor to forget it", Do: func(ctx context.Context) error { return s.Monitor.Forget(ctx, key) }},
		state.Step{Name: "unmount image volumes", Do: func(ctx context.Context) error { return s.unmountVolumes(ctx, c) }},
		state.Step{Name: "remove writable layer", Do: func(ctx context.Context) error {
			return s.RootFS.Remove(ctx, key, s.Layout.RootFS(id))
		}},
		state.Step{Name: "drop bundle", Do: func(context.Context) error { return s.Runtime.RemoveBundle(key) }},
		state.Step{Name: "remove files", Do: func(ctx context.Context) error { return tree.Remove(ctx, s.Layout.ContainerFiles(id)) }},
		state.Step{Name: "tell plugins", Do: func(ctx context.Context) error {
			s.settleLater(id, s.Plugins.RemoveContainer(ctx, s.podOf(c), s.plugin(c)))
			return nil
		}},
		state.Step{Name: "drop record", Do: func(context.Context) error { return s.Store.DropContainer(id) }},
	)
	if err != nil {
		return fmt.Errorf("tear down container %s: %w", id, err)
	}
	s.forgetSignal(id)
	s.noteEnd(id, nil)
	return nil
}

// deleteRuntime makes sure that no process of the container runs and frees the
// runtime's state and cgroups.
func (s *Service) deleteRuntime(ctx context.Context, c state.Container) error {
	path := ownCgroup(c)
	cgroup.Thaw(ctx, cgroup.Dirs(path))
	if err := s.Runtime.Kill(ctx, s.handlerOf(c), string(c.ID)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill: %w", err)
	}
	if err := cgroup.End(ctx, path); err != nil {
		return err
	}
	return s.Runtime.Delete(ctx, s.handlerOf(c), string(c.ID))
}

// ownCgroup is the cgroup whose processes are the container's and no one else's;
// "" for a record that names another, as a plugin could once make it.
func ownCgroup(c state.Container) string {
	if !cgroup.IsOf(c.Cgroup, string(c.ID)) {
		return ""
	}
	return c.Cgroup
}

// handlerOf finds the runtime that started the container. Its pod may be gone;
// then it is the one that has something of it.
func (s *Service) handlerOf(c state.Container) string {
	pod, err := s.Store.Pod(string(c.Pod))
	if err != nil {
		return s.Runtime.Keeper(string(c.ID))
	}
	return pod.Handler
}

func (s *Service) unmountVolumes(ctx context.Context, c state.Container) error {
	var errs []error
	for _, v := range c.Volumes {
		errs = append(errs, s.RootFS.Remove(ctx, v.Key, v.Target))
	}
	return errors.Join(errs...)
}
