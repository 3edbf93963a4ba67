// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// targetMode: a container in a user namespace has to be able to go through the directories above its root.
const targetMode = 0o711

// MountVolume shows an image read-only on target, as the volume named key: prepared and mounted in one, idempotent.
// Programs in it can be executed, which critest asks for. Remove takes it away.
func (s *Service) MountVolume(ctx context.Context, key string, v From, target string) error {
	if err := s.prepare(ctx, key, v, false); err != nil {
		return err
	}
	return s.mountKey(ctx, key, target, func(ctx context.Context, rec record) error {
		return s.mountReadOnly(ctx, key, target, rec)
	})
}

// mountKey does what all mounts have in common. A target that is mounted already is done: targets are named by id.
func (s *Service) mountKey(ctx context.Context, key, target string, do func(context.Context, record) error) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := s.keys.Lock(ctx, key); err != nil {
		return err
	}
	defer s.keys.Unlock(key)
	rec, err := s.readRecord(key)
	if err != nil {
		return err
	}
	mounted, err := sys.Mounted(target)
	if err != nil || mounted {
		return err
	}
	if err := os.MkdirAll(target, targetMode); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := do(ctx, rec); err != nil {
		return fmt.Errorf("mount %s on %s: %w", key, target, err)
	}
	return nil
}

func (s *Service) mountWritable(ctx context.Context, key, target string, rec record) error {
	lowers, err := s.images.Lowers(ctx, rec.Chain)
	if err != nil {
		return err
	}
	if len(lowers) == 0 && rec.Label == "" {
		return sys.Bind(s.upperDir(key), target, false)
	}
	// The kernel leaves this mark while a volatile mount is up, and refuses the next one where it finds it: after a
	// crash the upper layer may be incomplete. Ours is only ever mounted again before the container's first start, or
	// for a look at what is left of it.
	if err := tree.Remove(ctx, filepath.Join(s.workDir(key), "work", "incompat", "volatile")); err != nil {
		return err
	}
	return s.withMappedLowers(key, lowers, rec, func(lowers []string) error {
		if len(lowers) == 0 {
			empty, err := s.makeEmpty(key)
			if err != nil {
				return err
			}
			lowers = []string{empty}
		}
		return s.mountOverlay(target, rec.Label, "lowerdir="+strings.Join(lowers, ":"),
			"upperdir="+s.upperDir(key), "workdir="+s.workDir(key), "volatile")
	})
}

func (s *Service) mountReadOnly(ctx context.Context, key, target string, rec record) error {
	lowers, err := s.images.Lowers(ctx, rec.Chain)
	if err != nil {
		return err
	}
	if len(lowers) == 0 {
		return s.showReadOnly(key, target, rec.Label, []string{s.upperDir(key)})
	}
	return s.withMappedLowers(key, lowers, rec, func(lowers []string) error {
		return s.showReadOnly(key, target, rec.Label, lowers)
	})
}

// showReadOnly mounts layers, top first. One alone needs an overlay only for a label, which a bind mount can't carry; and
// an overlay without an upper layer takes no fewer than two.
func (s *Service) showReadOnly(key, target, label string, lowers []string) error {
	if len(lowers) == 1 {
		if label == "" {
			return sys.Bind(lowers[0], target, true)
		}
		empty, err := s.makeEmpty(key)
		if err != nil {
			return err
		}
		lowers = append(lowers, empty)
	}
	return s.mountOverlay(target, label, "lowerdir="+strings.Join(lowers, ":"), "ro")
}

// makeEmpty makes the directory that stands where an overlay wants one more lower layer than there is.
func (s *Service) makeEmpty(key string) (string, error) {
	dir := filepath.Join(s.keyDir(key), "empty")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make empty layer: %w", err)
	}
	return dir, nil
}

// mountOverlay mounts through containerd's mount package, which also fits many layers into the one page of options.
// label is the SELinux context that all files in it have, "" for their own.
func (s *Service) mountOverlay(target, label string, options ...string) error {
	if label != "" {
		options = append(options, fmt.Sprintf("context=%q", label))
	}
	// With the index on, an upper directory that a lazily unmounted overlay still holds could not be mounted again.
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		options = append(options, "index=off")
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: options}
	return s.mount(m, target)
}

// withMappedLowers gives do the layers with their owners shifted into the container's user namespace. The shifted mount
// is needed only while do mounts on top of it; it has a place of its own below the key, so that one that a crash left
// is found.
func (s *Service) withMappedLowers(key string, lowers []string, rec record, do func([]string) error) (err error) {
	if len(rec.UIDs) == 0 || len(lowers) == 0 {
		return do(lowers)
	}
	userns, err := mount.GetUsernsFD(idMap(rec.UIDs), idMap(rec.GIDs))
	if err != nil {
		return fmt.Errorf("make user namespace: %w", err)
	}
	defer userns.Close()
	at := s.idMapDir(key)
	if err := sys.Unmount(at); err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	base := s.images.SnapshotDir()
	err = mount.IDMapMountWithAttrs(base, at, int(userns.Fd()), sys.MountReadOnly, 0)
	if sys.IsUnmappable(err) {
		return fmt.Errorf("show %s to a user namespace: its file system cannot shift owners (tmpfs can since Linux 6.3): %w: %w",
			base, errdefs.ErrFailedPrecondition, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.Unmount(at)) }()
	mapped := make([]string, 0, len(lowers))
	for _, dir := range lowers {
		rel, err := filepath.Rel(base, dir)
		if err != nil {
			return err
		}
		mapped = append(mapped, filepath.Join(at, rel))
	}
	return do(mapped)
}

// sweepIDMaps unmounts shifted layers that a crash left mounted.
func (s *Service) sweepIDMaps() error {
	dirs, err := filepath.Glob(s.idMapDir("*"))
	for _, dir := range dirs {
		err = errors.Join(err, sys.Unmount(dir))
	}
	return err
}

func idMap(maps []specs.LinuxIDMapping) string {
	parts := make([]string, 0, len(maps))
	for _, m := range maps {
		parts = append(parts, fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size))
	}
	return strings.Join(parts, ",")
}

// hostRoot is the owner, on the host, of what root owns in the container.
func (r From) hostRoot() (sys.OwnerMode, error) {
	owner := sys.OwnerMode{Mode: 0o755}
	if len(r.UIDMappings) == 0 && len(r.GIDMappings) == 0 {
		return owner, nil
	}
	uid, uok := netns.HostID(r.UIDMappings, 0)
	gid, gok := netns.HostID(r.GIDMappings, 0)
	if !uok || !gok {
		return owner, fmt.Errorf("user namespace has no root user or no root group: %w", errdefs.ErrInvalidArgument)
	}
	owner.UID, owner.GID = uid, gid
	return owner, nil
}
