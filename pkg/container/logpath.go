// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

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
