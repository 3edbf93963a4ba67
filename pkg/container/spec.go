// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container/mounts"
	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// sources are what a container gets from its image.
type sources struct {
	image    image.Image
	declared map[string]string // host paths of the volumes it declares, by container path
}

// spec builds the container's OCI spec; its root filesystem is mounted. config
// is the pod's by oci.PodConfig.
func (s *Service) spec(ctx context.Context, pod state.Pod, c state.Container, config *cri.PodSandboxConfig, from sources) (*specs.Spec, *cri.ContainerUser, error) {
	rootfs := s.Layout.RootFS(c.ID)
	user, err := identity.Resolve(ctx, identity.OpenIn(rootfs), from.image.Config.User, c.Config.GetLinux().GetSecurityContext())
	if err != nil {
		return nil, nil, err
	}
	if err := mounts.Prepare(ctx, &s.paths, c.Config.GetMounts(), labels(pod, c)); err != nil {
		return nil, nil, err
	}
	volumes, err := mounts.ImagePaths(c)
	if err != nil {
		return nil, nil, err
	}
	handler, err := s.Runtime.Handler(pod.Handler)
	if err != nil {
		return nil, nil, err
	}
	if options := c.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(); !handler.HostNamespaces {
		if err := oci.NoHostNamespaces(options); err != nil {
			return nil, nil, err
		}
	}
	ns, err := s.namespaces(pod, c.Config)
	if err != nil {
		return nil, nil, err
	}
	files := s.Layout.PodFiles(pod.ID)
	in := oci.ContainerInput{
		ID: string(c.ID), PodID: string(pod.ID), Config: c.Config, Sandbox: config,
		Image: from.image.Config, ImageName: c.ImageName, User: user, RootFS: rootfs, Labels: labels(pod, c),
		Namespaces: ns, CgroupsPath: c.Cgroup, Volumes: volumes, Declared: from.declared,
		HostnamePath: filepath.Join(files, "hostname"),
		ResolvPath:   filepath.Join(files, "resolv.conf"),
		HostsPath:    filepath.Join(files, "hosts"),
		Host:         s.Host, Lookup: s.Lookup,
		PodAnnotations: handler.PodAnnotations, ContainerAnnotations: handler.ContainerAnnotations, OCIVersion: handler.OCIVersion,
	}
	if pod.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() != cri.NamespaceMode_NODE {
		in.ShmPath = s.Layout.PodShm(pod.ID)
	}
	spec, err := oci.Container(in)
	if err != nil {
		return nil, nil, err
	}
	return spec, user.CRI(), nil
}

// labels are the SELinux contexts of a container: the pod's, but for what it asks for itself. All its files have the level
// that its processes have, or they could not read them.
func labels(pod state.Pod, c state.Container) confine.Labels {
	return confine.Labels{Process: pod.ProcessLabel, Mount: pod.MountLabel}.With(c.Config.GetLinux().GetSecurityContext().GetSelinuxOptions())
}

// namespaces are where the container's processes go: those that pause holds,
// and for PidMode TARGET those of another container of the same pod.
func (s *Service) namespaces(pod state.Pod, c *cri.ContainerConfig) (oci.Namespaces, error) {
	of := func(pid int, kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, kind) }
	ns := oci.Namespaces{
		Network: pod.NetNS, IPC: of(pod.PausePID, "ipc"), UTS: of(pod.PausePID, "uts"), PID: of(pod.PausePID, "pid"),
	}
	if uids, _ := oci.IDMappings(pod.Config); len(uids) > 0 {
		ns.User = of(pod.PausePID, "user")
	}
	options := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options.GetPid() != cri.NamespaceMode_TARGET {
		return ns, nil
	}
	target, err := s.Store.Container(options.GetTargetId())
	if err != nil {
		return ns, fmt.Errorf("namespace target: %w", err)
	}
	if target.Pod != pod.ID {
		return ns, fmt.Errorf("namespace target %s is in another pod: %w", target.ID, errdefs.ErrInvalidArgument)
	}
	if target.Phase != state.Running {
		return ns, fmt.Errorf("namespace target %s is %s: %w", target.ID, target.Phase, errdefs.ErrFailedPrecondition)
	}
	ns.Target = of(target.PID, "pid")
	return ns, nil
}

// declaredVolumes makes a directory of the container's own for each volume that
// the image declares, filled with what the image has there.
func (s *Service) declaredVolumes(ctx context.Context, pod state.Pod, c state.Container, img image.Image) (map[string]string, error) {
	made, err := s.RootFS.MakeVolumes(ctx, string(c.ID), s.Layout.RootFS(c.ID), rootfs.VolumePaths{
		Declared: oci.DeclaredVolumes(c.Config, img.Config.Volumes), Taken: oci.TakenPaths(c.Config),
	})
	if err != nil {
		return nil, err
	}
	for _, dir := range made {
		if err := confine.Relabel(ctx, dir, labels(pod, c)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// stdioOwner is the host user that the container's user is: the stdio pipes
// are its, so that programs which open /dev/stdout again may.
func (s *Service) stdioOwner(pod state.Pod, c state.Container) (uid, gid int) {
	uids, gids := oci.IDMappings(pod.Config)
	user := c.User.GetLinux()
	uid, _ = netns.HostID(uids, user.GetUid())
	gid, _ = netns.HostID(gids, user.GetGid())
	return uid, gid
}
