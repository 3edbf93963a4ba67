// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// RootFS says what a root filesystem or a volume is made from.
type RootFS struct {
	ImageID     string                 // sha256:…
	UIDMappings []specs.LinuxIDMapping // of the pod's user namespace; empty = the host's ids
	GIDMappings []specs.LinuxIDMapping // both or none
	MountLabel  string                 // SELinux context of every file; "" = those of the layers
}

// rootFSRecord is rootfs/<key>/record.json. It isn't synced: after a power cut a writable layer is worth nothing anyway.
type rootFSRecord struct {
	Image string                 `json:"image"`
	Chain string                 `json:"chain"`
	UIDs  []specs.LinuxIDMapping `json:"uids,omitempty"`
	GIDs  []specs.LinuxIDMapping `json:"gids,omitempty"`
	Label string                 `json:"label,omitempty"`
}

var rootFSKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$`)

func (s *Service) rootfsDir() string          { return filepath.Join(s.root, "rootfs") }
func (s *Service) keyDir(key string) string   { return filepath.Join(s.rootfsDir(), key) }
func (s *Service) upperDir(key string) string { return filepath.Join(s.keyDir(key), "upper") }
func (s *Service) workDir(key string) string  { return filepath.Join(s.keyDir(key), "work") }
func (s *Service) idMapDir(key string) string { return filepath.Join(s.keyDir(key), "idmap") }
func (s *Service) recordOf(key string) string { return filepath.Join(s.keyDir(key), "record.json") }
func checkKey(key string) error {
	if !rootFSKey.MatchString(key) {
		return fmt.Errorf("root filesystem key %q: %w", key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// PrepareRootFS makes the writable layer named key on top of an image. It is idempotent. From here on the image's
// layers stay, whatever happens to the image. Errors: ErrNotFound without the image, ErrAlreadyExists when the key has
// another image, ErrInvalidArgument.
func (s *Service) PrepareRootFS(ctx context.Context, key string, r RootFS) error {
	return s.prepare(ctx, key, r, true)
}

// MountRootFS mounts the prepared layer on target, which is made when missing. It is idempotent. The mount is volatile:
// taking it away doesn't sync, and what is in it doesn't survive a power cut. ErrNotFound when it isn't prepared.
func (s *Service) MountRootFS(ctx context.Context, key, target string) error {
	return s.mountKey(ctx, key, target, func(ctx context.Context, rec rootFSRecord) error {
		return s.mountWritable(ctx, key, target, rec)
	})
}

// RemoveRootFS unmounts target and removes it and the writable layer. It is idempotent, finishes what was begun by
// another process, and goes on when the caller is gone. An empty target is one that is removed already.
func (s *Service) RemoveRootFS(ctx context.Context, key, target string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	brief, cancel := s.cleanupContext(ctx)
	defer cancel()
	if err := s.keys.Lock(brief, key); err != nil {
		return err
	}
	ctx = context.WithoutCancel(s.context(ctx)) // what a container wrote may take long to remove
	defer s.keys.Unlock(key)
	if target != "" {
		if err := sys.Unmount(target); err != nil {
			return err
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove mount point: %w", err)
		}
	}
	rec, recErr := s.readRootFS(key)
	// What is mounted there is the image's layers: never delete through it.
	if err := sys.Unmount(s.idMapDir(key)); err != nil {
		return err
	}
	s.samples.forget(s.upperDir(key))
	s.samples.forget(s.volumesDir(key))
	if err := tree.Remove(ctx, s.keyDir(key)); err != nil {
		return fmt.Errorf("remove root filesystem %s: %w", key, err)
	}
	if recErr != nil {
		return nil // nothing to release
	}
	if _, err := s.images.Get(ctx, rec.Image); errdefs.IsNotFound(err) {
		return s.GC(ctx) // the image went first; this may have been the last use of its layers
	}
	return nil
}

// Keys returns the keys of all root filesystems and volumes, also of half-made ones.
func (s *Service) Keys(context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.rootfsDir())
	if err != nil {
		return nil, fmt.Errorf("list root filesystems: %w", err)
	}
	keys := make([]string, 0, len(entries))
	for _, e := range entries {
		keys = append(keys, e.Name())
	}
	return keys, nil
}

func (s *Service) prepare(ctx context.Context, key string, r RootFS, writable bool) error {
	if err := checkKey(key); err != nil {
		return err
	}
	root, err := r.hostRoot()
	if err != nil {
		return err
	}
	ctx = s.context(ctx)
	if err := s.keys.Lock(ctx, key); err != nil {
		return err
	}
	defer s.keys.Unlock(key)
	if old, err := s.readRootFS(key); err == nil {
		if old.Image != r.ImageID {
			return fmt.Errorf("root filesystem %s is made from image %s: %w", key, old.Image, errdefs.ErrAlreadyExists)
		}
		return nil
	}
	s.pins.RLock() // until the record says that the layers are in use
	defer s.pins.RUnlock()
	img, err := s.images.Get(ctx, r.ImageID)
	if err != nil {
		return fmt.Errorf("prepare root filesystem: image %s: %w", r.ImageID, err)
	}
	rec := rootFSRecord{Image: r.ImageID, Chain: img.Labels[labelChain], UIDs: r.UIDMappings, GIDs: r.GIDMappings, Label: r.MountLabel}
	if err := s.pinLocked(ctx, rec.Chain); err != nil {
		return err
	}
	if err := s.makeDirs(ctx, key, rec, writable, root); err != nil {
		return fmt.Errorf("prepare root filesystem %s: %w", key, err)
	}
	return s.writeRootFS(key, rec)
}

// makeDirs makes the directories of a key. A writable layer's own directory becomes the root directory of the
// container, so it takes mode and owner from the image; a layerless image needs a directory to show in any case.
func (s *Service) makeDirs(ctx context.Context, key string, rec rootFSRecord, writable bool, owner sys.OwnerMode) error {
	if err := os.MkdirAll(s.keyDir(key), 0o700); err != nil {
		return err
	}
	lowers, err := s.lowers(ctx, rec.Chain)
	if err != nil || (!writable && len(lowers) > 0) {
		return err
	}
	if len(lowers) > 0 {
		fi, err := os.Lstat(lowers[0])
		if err != nil {
			return err
		}
		top, err := sys.Owner(fi)
		if err != nil {
			return err
		}
		if len(rec.UIDs) == 0 {
			owner.UID, owner.GID = top.UID, top.GID
		}
		owner.Mode = top.Mode
	}
	for _, dir := range []string{s.upperDir(key), s.workDir(key)} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := os.Lchown(s.upperDir(key), owner.UID, owner.GID); err != nil {
		return err
	}
	return os.Chmod(s.upperDir(key), owner.Mode)
}

func (s *Service) writeRootFS(key string, rec rootFSRecord) error {
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	part := s.recordOf(key) + ".part"
	if err := os.WriteFile(part, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(part, s.recordOf(key))
}

func (s *Service) readRootFS(key string) (rootFSRecord, error) {
	var rec rootFSRecord
	raw, err := os.ReadFile(s.recordOf(key))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, fmt.Errorf("root filesystem %s is not prepared: %w", key, errdefs.ErrNotFound)
	}
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, fmt.Errorf("read record of root filesystem %s: %w: %w", key, err, errdefs.ErrDataLoss)
	}
	return rec, nil
}
