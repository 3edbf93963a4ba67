// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// maxVolumes is how many volumes an image may declare: each costs a copy and a mount.
const maxVolumes = 256

func (s *Service) volumesDir(key string) string { return filepath.Join(s.keyDir(key), "volumes") }

// MakeVolumes makes what a writable layer has at paths of its root filesystem, which is mounted on target: each a copy
// of what is at the path, or else an empty directory of the container's root. It returns where they are on the host, by
// path; two paths that a symbolic link makes one share a copy. They go with the writable layer. Errors:
// ErrInvalidArgument when a path can't be a volume, or when there are more than 256.
func (s *Service) MakeVolumes(ctx context.Context, key, target string, paths []string) (map[string]string, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	if len(paths) > maxVolumes {
		return nil, fmt.Errorf("the image declares %d volumes, more than %d: %w", len(paths), maxVolumes, errdefs.ErrInvalidArgument)
	}
	rec, err := s.readRootFS(key)
	if err != nil {
		return nil, err
	}
	owner, err := RootFS{UIDMappings: rec.UIDs, GIDMappings: rec.GIDs}.hostRoot()
	if err != nil {
		return nil, err
	}
	inRoot, err := resolveVolumes(target, paths)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.volumesDir(key), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of volumes: %w", err)
	}
	made, out := map[string]string{}, map[string]string{}
	for i, path := range paths {
		from := inRoot[path]
		if made[from] == "" {
			made[from] = filepath.Join(s.volumesDir(key), strconv.Itoa(i))
			if err := makeVolume(ctx, from, made[from], owner, below(from, inRoot)); err != nil {
				return nil, fmt.Errorf("volume %s of the image: %w", path, err)
			}
		}
		out[path] = made[from]
	}
	return out, nil
}

// resolveVolumes follows symbolic links within the root filesystem. Nothing runs in it that could change them.
func resolveVolumes(root string, paths []string) (map[string]string, error) {
	out := map[string]string{}
	for _, path := range paths {
		at, err := securejoin.SecureJoin(root, path)
		if err == nil && at == filepath.Clean(root) {
			err = errors.New("it is the root directory")
		}
		if err != nil {
			return nil, fmt.Errorf("volume %s of the image: %w: %w", path, err, errdefs.ErrInvalidArgument)
		}
		out[path] = at
	}
	return out, nil
}

// below returns the other volumes in a directory, which are mounted over it.
func below(dir string, all map[string]string) map[string]bool {
	out := map[string]bool{}
	for _, at := range all {
		if rel, ok := strings.CutPrefix(at, dir+"/"); ok {
			out[rel] = true
		}
	}
	return out
}

// makeVolume copies from, a directory or a file, or makes an empty directory when there is none.
func makeVolume(ctx context.Context, from, to string, owner sys.OwnerMode, nested map[string]bool) error {
	fi, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		err := os.Mkdir(to, 0o700)
		if err == nil {
			err = os.Lchown(to, owner.UID, owner.GID)
		}
		if err == nil {
			err = os.Chmod(to, owner.Mode)
		}
		return err
	}
	if sys.IsNotDirectory(err) {
		return fmt.Errorf("a part of the path is no directory: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return fmt.Errorf("neither directory nor file, but %s: %w", fi.Mode().Type(), errdefs.ErrInvalidArgument)
	}
	return sys.CopyTree(ctx, from, to, nested)
}
