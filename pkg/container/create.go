// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container/mounts"
	"github.com/cri-shim/cri-shim/pkg/container/nriview"
	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// NewContainer is a request for a container.
type NewContainer struct {
	Pod     state.PodID
	Config  *cri.ContainerConfig
	Sandbox *cri.PodSandboxConfig // the pod's, as it is now; nil: as it was
}

// Create makes a container: root filesystem, spec and bundle, but no process.
// The same request again gets the same container.
func (s *Service) Create(ctx context.Context, in NewContainer) (state.ContainerID, error) {
	name := state.ContainerName(in.Pod, in.Config)
	return state.Do(ctx, s.Ops, "create "+name, func(ctx context.Context) (state.ContainerID, error) {
		state.Stage(ctx, "wait for pod")
		release, err := s.Ops.Lock(ctx, "pod/"+string(in.Pod))
		if err != nil {
			return "", err
		}
		defer release()
		return s.create(ctx, in)
	})
}

func (s *Service) create(ctx context.Context, in NewContainer) (state.ContainerID, error) {
	pod, err := s.readyPod(in.Pod)
	if err != nil {
		return "", fmt.Errorf("create container: %w", err)
	}
	state.Stage(ctx, "find image")
	img, err := s.Images.Get(ctx, in.Config.GetImage().GetImage())
	if err != nil {
		return "", fmt.Errorf("create container: %w", err)
	}
	c, began, err := s.begin(ctx, pod, in, img)
	if err != nil || !began {
		return c.ID, err
	}
	if err := s.prepare(ctx, pod, c, oci.PodConfig(pod.Config, in.Sandbox), img); err != nil {
		return "", s.abandon(ctx, c.ID, err)
	}
	s.Plugins.PostCreateContainer(ctx, nriview.Pod(pod), s.plugin(c))
	return c.ID, nil
}

// begin writes the record of a new container, or finds the one a repeated
// request means. What an earlier attempt left half done is torn down first.
func (s *Service) begin(ctx context.Context, pod state.Pod, in NewContainer, img image.Image) (state.Container, bool, error) {
	id := state.ContainerID(state.NewID())
	config := oci.PodConfig(pod.Config, in.Sandbox)
	if err := oci.FitsPod(in.Config, config); err != nil {
		return state.Container{}, false, fmt.Errorf("create container: %w", err)
	}
	logPath, err := logPath(config, in.Config)
	if err != nil {
		return state.Container{}, false, err
	}
	_, signal, err := oci.StopSignal(in.Config, img.Config.StopSignal)
	if err != nil {
		return state.Container{}, false, err
	}
	volumes, err := mounts.Volumes(ctx, s.Images, in.Config, string(id), s.Layout.ContainerFiles(id))
	if err != nil {
		return state.Container{}, false, err
	}
	c := state.Container{
		ID: id, Pod: pod.ID, Config: in.Config, CreatedAt: time.Now(),
		ImageID: img.ID, ImageName: imageName(img, in.Config), LogPath: logPath,
		Cgroup: oci.CgroupsPath(pod.CgroupParent, string(id), s.Host.Systemd), StopSignal: int32(signal),
		Resources: &cri.ContainerResources{Linux: in.Config.GetLinux().GetResources()},
		Mounts:    mounts.Reported(in.Config, volumes),
		Volumes:   volumes,
	}
	existing, began, err := s.Store.BeginContainer(c)
	if err != nil || began {
		return c, began, err
	}
	switch {
	case existing.Phase == state.Created && state.SameConfig(existing.Config, in.Config):
		return existing, false, nil
	case existing.Phase == state.Creating:
		if err := s.clear(ctx, existing.ID); err != nil {
			return existing, false, fmt.Errorf("clean up an earlier attempt at this container: %w", err)
		}
		return s.begin(ctx, pod, in, img)
	}
	return existing, false, fmt.Errorf("a container with this name and attempt already exists (id %s, phase %s): %w", existing.ID, existing.Phase, errdefs.ErrAlreadyExists)
}

// clear tears down what an earlier attempt left half done. The recovery after
// the daemon's death may be at it as well.
func (s *Service) clear(ctx context.Context, id state.ContainerID) error {
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return s.teardown(ctx, id)
}

// prepare is everything between the record and the Created container.
func (s *Service) prepare(ctx context.Context, pod state.Pod, c state.Container, config *cri.PodSandboxConfig, img image.Image) error {
	var spec *specs.Spec
	var user *cri.ContainerUser
	var declared map[string]string
	var updates []nri.Update
	return state.Steps(ctx,
		state.Step{Name: "make log directory", Do: func(ctx context.Context) error { return s.makeLogDir(ctx, c) }},
		state.Step{Name: "make writable layer", Do: func(ctx context.Context) error {
			uids, gids := oci.IDMappings(pod.Config)
			return s.RootFS.Prepare(ctx, string(c.ID), rootfs.From{ImageID: img.ID, UIDMappings: uids, GIDMappings: gids, MountLabel: labels(pod, c).Mount})
		}},
		state.Step{Name: "mount root filesystem", Do: func(ctx context.Context) error { return s.mount(ctx, pod, c) }},
		state.Step{Name: "fill volumes of the image", Do: func(ctx context.Context) (err error) {
			declared, err = s.declaredVolumes(ctx, pod, c, img)
			return err
		}},
		state.Step{Name: "build spec", Do: func(ctx context.Context) (err error) {
			spec, user, err = s.spec(ctx, pod, c, config, sources{img, declared})
			return err
		}},
		state.Step{Name: "record container", Do: func(ctx context.Context) (err error) {
			c.User = user
			updates, err = s.Plugins.CreateContainer(ctx, nriview.Pod(pod), s.plugin(c), spec, func() error { return s.commit(ctx, c, spec) })
			return err
		}},
		state.Step{Name: "apply updates of plugins", Do: func(ctx context.Context) error { return s.settlePlugins(ctx, updates) }},
	)
}

// commit writes the bundle and makes the container visible. Plugins may have
// moved it to another cgroup.
func (s *Service) commit(ctx context.Context, c state.Container, spec *specs.Spec) error {
	if err := s.Runtime.WriteBundle(string(c.ID), spec); err != nil {
		return err
	}
	trace := state.Trace(ctx)
	_, err := s.Store.MoveContainer(c.ID, state.Prepared, func(record *state.Container) {
		record.User, record.Trace, record.Cgroup = c.User, trace, spec.Linux.CgroupsPath
		record.Resources = limits.Reported(record.Resources.GetLinux(), spec)
	})
	return err
}

// mount brings the root filesystem and the image volumes of a container to
// where its spec expects them. It may be repeated, and is after a reboot.
func (s *Service) mount(ctx context.Context, pod state.Pod, c state.Container) error {
	uids, gids := oci.IDMappings(pod.Config)
	root, _ := netns.HostID(gids, 0)
	if err := sys.MakePrivateDir(root, s.Layout.ContainerFiles(c.ID)); err != nil {
		return err
	}
	if err := s.RootFS.Mount(ctx, string(c.ID), s.Layout.RootFS(c.ID)); err != nil {
		return err
	}
	for _, v := range c.Volumes {
		from := rootfs.From{ImageID: v.ImageID, UIDMappings: uids, GIDMappings: gids, MountLabel: labels(pod, c).Mount}
		if err := s.RootFS.MountVolume(ctx, v.Key, from, v.Target); err != nil {
			return err
		}
	}
	return nil
}

// abandon undoes a create that did not work. If even that fails, the record
// stays as Creating: a retry, a pod removal and the next start repeat it.
func (s *Service) abandon(ctx context.Context, id state.ContainerID, cause error) error {
	ctx, cancel := state.Cleanup(ctx)
	defer cancel()
	return errors.Join(fmt.Errorf("create container %s: %w", id, cause), s.teardown(ctx, id))
}

// imageName is the name the container's image is reported by: what the user
// wrote, else a tag, else what the request said.
func imageName(img image.Image, c *cri.ContainerConfig) string {
	switch {
	case c.GetImage().GetUserSpecifiedImage() != "":
		return c.GetImage().GetUserSpecifiedImage()
	case len(img.RepoTags) > 0:
		return img.RepoTags[0]
	case len(img.RepoDigests) > 0:
		return img.RepoDigests[0]
	}
	return c.GetImage().GetImage()
}
