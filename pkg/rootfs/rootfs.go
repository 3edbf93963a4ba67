// SPDX-License-Identifier: Apache-2.0

package rootfs

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

// From says what a root filesystem or a volume is made from.
type From struct {
	ImageID     string                 // sha256:…
	UIDMappings []specs.LinuxIDMapping // of the pod's user namespace; empty = the host's ids
	GIDMappings []specs.LinuxIDMapping // both or none
	MountLabel  string                 // SELinux context of every file; "" = those of the layers
}

// record is rootfs/<key>/record.json. It isn't synced: after a power cut a writable layer is worth nothing anyway.
type record struct {
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

// Prepare makes the writable layer named key on top of an image. It is idempotent. From here on the image's
// layers stay, whatever happens to the image. Errors: ErrNotFound without the image, ErrAlreadyExists when the key has
// another image, ErrInvalidArgument.
func (s *Service) Prepare(ctx context.Context, key string, r From) error {
	return s.prepare(ctx, key, r, true)
}

// Mount mounts the prepared layer on target, which is made when missing. It is idempotent. The mount is volatile:
// taking it away doesn't sync, and what is in it doesn't survive a power cut. ErrNotFound when it isn't prepared.
func (s *Service) Mount(ctx context.Context, key, target string) error {
	return s.mountKey(ctx, key, target, func(ctx context.Context, rec record) error {
		return s.mountWritable(ctx, key, target, rec)
	})
}

// Remove unmounts target and removes it and the writable layer. It is idempotent, finishes what was begun by
// another process, and goes on when the caller is gone. An empty target is one that is removed already.
func (s *Service) Remove(ctx context.Context, key, target string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := s.keys.Lock(brief, key); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // what a container wrote may take long to remove
	defer s.keys.Unlock(key)
	if target != "" {
		if err := sys.Unmount(target); err != nil {
			return err
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove mount point: %w", err)
		}
	}
	rec, recErr := s.readRecord(key)
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
	return s.images.Released(ctx, rec.Image)
}

// Keys returns the keys of all root filesystems and volumes, also of half-made ones.
func (s *Service) Keys() ([]string, error) {
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

func (s *Service) prepare(ctx context.Context, key string, r From, writable bool) error {
	if err := checkKey(key); err != nil {
		return err
	}
	root, err := r.hostRoot()
	if err != nil {
		return err
	}
	if err := s.keys.Lock(ctx, key); err != nil {
		return err
	}
	defer s.keys.Unlock(key)
	old, err := s.readRecord(key)
	switch {
	case err == nil && old.Image != r.ImageID:
		return fmt.Errorf("root filesystem %s is made from image %s: %w", key, old.Image, errdefs.ErrAlreadyExists)
	case err == nil || !noRecord(err):
		return err
	}
	err = s.images.Hold(ctx, r.ImageID, func(chain string) error {
		rec := record{Image: r.ImageID, Chain: chain, UIDs: r.UIDMappings, GIDs: r.GIDMappings, Label: r.MountLabel}
		if err := s.makeDirs(ctx, key, rec, writable, root); err != nil {
			return err
		}
		return s.writeRecord(key, rec)
	})
	if err != nil {
		return fmt.Errorf("prepare root filesystem %s: %w", key, err)
	}
	return nil
}

// makeDirs makes the directories of a key. A writable layer's own directory becomes the root directory of the
// container, so it takes mode and owner from the image; a layerless image needs a directory to show in any case.
func (s *Service) makeDirs(ctx context.Context, key string, rec record, writable bool, owner sys.OwnerMode) error {
	if err := os.MkdirAll(s.keyDir(key), 0o700); err != nil {
		return err
	}
	lowers, err := s.images.Lowers(ctx, rec.Chain)
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

func (s *Service) writeRecord(key string, rec record) error {
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

func (s *Service) readRecord(key string) (record, error) {
	var rec record
	raw, err := os.ReadFile(s.recordOf(key))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, fmt.Errorf("root filesystem %s is not prepared: %w", key, errdefs.ErrNotFound)
	}
	if err != nil {
		return rec, fmt.Errorf("read record of root filesystem %s: %w", key, err)
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, fmt.Errorf("read record of root filesystem %s: %w: %w", key, err, errdefs.ErrDataLoss)
	}
	return rec, nil
}

// noRecord tells the errors of readRecord that say that there is no usable record from those of a disk that can't be
// read or a process without descriptors, which say nothing about it.
func noRecord(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) }
