// SPDX-License-Identifier: Apache-2.0

// Package layers unpacks, measures and removes layers in containerd's overlay snapshotter.
//
// A layer is hostile: nothing of it ends up outside its directory, its paths may be of any length, and whatever it has
// costs bounded memory and few descriptors. Its files are on disk before it is committed.
//
// The package mounts nothing. The order of layers, and which to keep, is its callers' business.
package layers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// strayPrefix begins the names of directories that are only to be removed.
const strayPrefix = "stray-"

// Store is the overlay snapshotter with three of its methods done anew: what an image's author has put into a
// layer is measured and removed with bounded memory and descriptors.
type Store struct {
	snapshots.Snapshotter

	records *storage.MetaStore
	dir     string // of the snapshots, each in the directory of its number
}

// NewStore takes over an overlay snapshotter: its records, and the directory that has a directory per snapshot.
func NewStore(s snapshots.Snapshotter, records *storage.MetaStore, dir string) *Store {
	return &Store{s, records, dir}
}

// Commit seals a layer and records its use. It is measured before the database is locked.
func (l *Store) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	use, err := l.measure(ctx, key)
	if err != nil {
		return err
	}
	return l.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		if _, err := storage.CommitActive(ctx, key, name, use, opts...); err != nil {
			return fmt.Errorf("commit snapshot %s: %w", key, err)
		}
		return nil
	})
}

// Usage is on record for a layer that is complete.
func (l *Store) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	info, err := l.Stat(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	if info.Kind == snapshots.KindActive {
		return l.measure(ctx, key)
	}
	return l.Snapshotter.Usage(ctx, key)
}

func (l *Store) measure(ctx context.Context, key string) (snapshots.Usage, error) {
	info, err := l.Stat(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	u, err := tree.DiskUsage(ctx, info.Labels[LabelUpperDir], nil)
	return snapshots.Usage{Size: int64(u.Bytes), Inodes: int64(u.Inodes)}, err //nolint:gosec // fits a filesystem
}

// Cleanup removes the directories of layers without a record. Once begun it doesn't stop for the caller's deadline.
func (l *Store) Cleanup(ctx context.Context) error {
	return l.RemoveUnused(context.WithoutCancel(ctx))
}

// RemoveUnused removes the directories of layers without a record.
func (l *Store) RemoveUnused(ctx context.Context) error {
	unused, err := l.unused(ctx)
	for _, dir := range unused {
		err = errors.Join(err, tree.Remove(ctx, dir))
	}
	return err
}

// SetAside renames the directories of layers without a record: the number of a layer that a crash kept from being
// recorded is given again, to the next one, which must not find a directory of that name.
func (l *Store) SetAside(ctx context.Context) error {
	unused, err := l.unused(ctx)
	if errdefs.IsNotFound(err) { // there never was a layer
		return nil
	}
	for _, dir := range unused {
		if !strings.HasPrefix(filepath.Base(dir), strayPrefix) {
			err = errors.Join(err, os.Rename(dir, filepath.Join(l.dir, strayPrefix+rand.Text())))
		}
	}
	return err
}

// unused lists directories without a record, while none can be made.
func (l *Store) unused(ctx context.Context) (dirs []string, err error) {
	err = l.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		used, err := storage.IDMap(ctx)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(l.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if _, is := used[e.Name()]; !is {
				dirs = append(dirs, filepath.Join(l.dir, e.Name()))
			}
		}
		return nil
	})
	return dirs, err
}
