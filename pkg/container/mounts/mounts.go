// SPDX-License-Identifier: Apache-2.0

// Package mounts finds and prepares the sources of a container's mounts: paths
// of the host, images, and parts of images.
//
// A path of the host that does not answer holds up its own caller only. A sub
// path of an image is resolved inside the image. The package mounts nothing.
package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/hostpath"
)

// Prepare makes host paths of mounts that are missing, as directories: other
// runtimes do, and manifests count on it. It relabels those that ask for it.
func Prepare(ctx context.Context, paths *hostpath.Paths, mounts []*cri.Mount, labels confine.Labels) error {
	limited, cancel := paths.Limited(ctx)
	defer cancel()
	for _, m := range mounts {
		if m.GetImage().GetImage() != "" {
			continue
		}
		if err := paths.Exists(limited, m.GetHostPath()); err != nil {
			return fmt.Errorf("mount of %s: host path: %w", m.GetContainerPath(), err)
		}
		if !m.GetSelinuxRelabel() {
			continue
		}
		err := paths.Walk(ctx, "relabel "+labels.Mount, m.GetHostPath(), func(ctx context.Context) error {
			return confine.Relabel(ctx, m.GetHostPath(), labels)
		})
		if err != nil {
			return fmt.Errorf("mount of %s: %w", m.GetContainerPath(), err)
		}
	}
	return nil
}

// Volumes finds the images that a container mounts. Their keys derive from its
// id, and where they are mounted is in dir, its own directory.
func Volumes(ctx context.Context, images *image.Service, c *cri.ContainerConfig, id, dir string) ([]state.Volume, error) {
	var out []state.Volume
	for i, m := range c.GetMounts() {
		ref := m.GetImage().GetImage()
		if ref == "" {
			continue
		}
		img, err := images.Get(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("image volume at %s: %w", m.GetContainerPath(), err)
		}
		name := fmt.Sprintf("vol-%d", i)
		out = append(out, state.Volume{
			Index: i, ImageID: img.ID,
			Key: id + "-" + name, Target: filepath.Join(dir, name),
		})
	}
	return out, nil
}

// ImagePaths says what each image mount mounts: the image's root, or a sub
// path that is resolved inside it and must exist.
func ImagePaths(c state.Container) (map[int]string, error) {
	out := map[int]string{}
	for _, v := range c.Volumes {
		mount := c.Config.GetMounts()[v.Index]
		sub, at := mount.GetImageSubPath(), mount.GetContainerPath()
		path, err := securejoin.SecureJoin(v.Target, sub)
		if err != nil {
			return nil, fmt.Errorf("image volume at %s: sub path %q: %w", at, sub, err)
		}
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("image volume at %s: no sub path %q in the image: %w", at, sub, errdefs.ErrInvalidArgument)
		} else if err != nil {
			return nil, fmt.Errorf("image volume at %s: sub path %q: %w", at, sub, err)
		}
		out[v.Index] = path
	}
	return out, nil
}

// Reported are the mounts as ContainerStatus has them: as asked for, with the id
// of each mounted image (ImageSpec.image_ref, KEP-5365).
func Reported(c *cri.ContainerConfig, volumes []state.Volume) []*cri.Mount {
	var out []*cri.Mount
	for _, m := range c.GetMounts() {
		out = append(out, proto.Clone(m).(*cri.Mount))
	}
	for _, v := range volumes {
		out[v.Index].Image.ImageRef = v.ImageID
	}
	return out
}
