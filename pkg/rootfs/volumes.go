// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/hostpath"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

func (s *Service) volumesDir(key string) string { return filepath.Join(s.keyDir(key), "volumes") }

// VolumePaths are absolute paths of a container as its image and its configuration have them: symbolic links of the
// image may be in them.
type VolumePaths struct {
	Declared []string // where a volume is to be
	Taken    []string // where something else is mounted: there is no volume at or below it
}

// MakeVolumes makes what a writable layer has at paths of its root filesystem, which is mounted on target: each a copy
// of what is at the path, or else an empty directory of the container's root. It returns where they are on the host, by
// their paths in the container with links followed; there is one for all paths that are the same place. They go with
// the writable layer. How many an image may declare is checked when it is pulled (package manifest). Errors:
// ErrInvalidArgument when a path can't be a volume.
func (s *Service) MakeVolumes(ctx context.Context, key, target string, want VolumePaths) (map[string]string, error) {
	if len(want.Declared) == 0 {
		return nil, nil
	}
	rec, err := s.readRecord(key)
	if err != nil {
		return nil, err
	}
	owner, err := From{UIDMappings: rec.UIDs, GIDMappings: rec.GIDs}.hostRoot()
	if err != nil {
		return nil, err
	}
	target = filepath.Clean(target)
	names, err := resolveVolumes(target, want)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.volumesDir(key), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of volumes: %w", err)
	}
	out := map[string]string{}
	for from, path := range names {
		to := filepath.Join(s.volumesDir(key), strconv.Itoa(len(out)))
		if err := makeVolume(ctx, from, to, owner, below(from, names)); err != nil {
			return nil, fmt.Errorf("volume %s of the image: %w", path, err)
		}
		out[strings.TrimPrefix(from, target)] = to
	}
	return out, nil
}

// resolveVolumes returns the declared paths by where they lead within the root filesystem, but for those that lead to
// what is taken: a volume there would hide it. Nothing runs in the root filesystem that could change its links.
func resolveVolumes(root string, want VolumePaths) (map[string]string, error) {
	taken := resolveTaken(root, want.Taken)
	out := map[string]string{}
	for _, path := range want.Declared {
		at, err := securejoin.SecureJoin(root, path)
		if err == nil && at == root {
			err = errors.New("it is the root directory")
		}
		if err != nil {
			return nil, fmt.Errorf("volume %s of the image: %w: %w", path, err, errdefs.ErrInvalidArgument)
		}
		covers := func(dir string) bool { return at == dir || strings.HasPrefix(at, dir+"/") }
		if !slices.ContainsFunc(taken, covers) {
			out[at] = path
		}
	}
	return out, nil
}

// resolveTaken leaves out what leads nowhere: the runtime refuses the mount there.
func resolveTaken(root string, paths []string) []string {
	var out []string
	for _, path := range paths {
		if at, err := securejoin.SecureJoin(root, path); err == nil {
			out = append(out, at)
		}
	}
	return out
}

// below returns the other volumes in a directory, which are mounted over it.
func below(dir string, all map[string]string) map[string]bool {
	out := map[string]bool{}
	for at := range all {
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
	if hostpath.IsNotDirectory(err) {
		return fmt.Errorf("a component of the path is not a directory: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return fmt.Errorf("neither a directory nor a file, but %s: %w", fi.Mode().Type(), errdefs.ErrInvalidArgument)
	}
	return tree.Copy(ctx, from, to, nested)
}
