// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// prepareSources makes host paths of mounts that are missing, as directories:
// other runtimes do, and manifests count on it. It relabels those that ask for it.
func (s *Service) prepareSources(ctx context.Context, mounts []*cri.Mount, labels confine.Labels) error {
	limited, cancel := s.paths.Limited(ctx)
	defer cancel()
	for _, m := range mounts {
		if m.GetImage().GetImage() != "" {
			continue
		}
		if err := s.paths.Exists(limited, m.GetHostPath()); err != nil {
			return fmt.Errorf("mount of %s: host path: %w", m.GetContainerPath(), err)
		}
		if !m.GetSelinuxRelabel() {
			continue
		}
		err := s.paths.Walk(ctx, "relabel "+labels.Mount, m.GetHostPath(), func(ctx context.Context) error {
			return confine.Relabel(ctx, m.GetHostPath(), labels)
		})
		if err != nil {
			return fmt.Errorf("mount of %s: %w", m.GetContainerPath(), err)
		}
	}
	return nil
}

// makeLogDir makes the pod's log directory, which another program may have
// removed, and the container's own directory in it.
func (s *Service) makeLogDir(ctx context.Context, c state.Container) error {
	if c.LogPath == "" {
		return nil
	}
	base, rel := logDir(c)
	limited, cancel := s.paths.Limited(ctx)
	defer cancel()
	err := s.paths.Directory(limited, base)
	if err == nil && filepath.Dir(rel) != "." {
		err = s.paths.DirectoryBelow(limited, base, filepath.Dir(rel))
	}
	return err
}

// logDir is the pod's log directory, and the way from there to the container's
// log.
func logDir(c state.Container) (base, rel string) {
	if c.LogPath == "" {
		return "", ""
	}
	rel = filepath.Clean(c.Config.GetLogPath())
	return "/" + strings.Trim(strings.TrimSuffix(c.LogPath, rel), "/"), rel
}

// logPath is where the CRI log goes. It cannot leave the pod's log directory.
func logPath(pod *cri.PodSandboxConfig, c *cri.ContainerConfig) (string, error) {
	dir, name := pod.GetLogDirectory(), c.GetLogPath()
	if dir == "" || name == "" {
		return "", nil
	}
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("log path %q leaves the pod's log directory: %w", name, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("log directory %q is not absolute: %w", dir, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(dir, name), nil
}
