// SPDX-License-Identifier: Apache-2.0

// Package database opens the two databases of the image store, containerd's metadata and that of its overlay
// snapshotter, and sets both aside when one is damaged.
//
// A damaged file is found when it is opened: every key is read then, and a panic of the library is an error. The blobs
// stay and are found again by digest; layers that containers run on stay until the next boot.
//
// The package doesn't know what the databases hold.
package database

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// Snapshotter is the name that the metadata has for the snapshotter.
const Snapshotter = "overlayfs"

const (
	lockWait    = 3 * time.Second // how long a child of a killed daemon, on its way to exec, may still hold the database
	asidePrefix = "damaged-"
)

var errDamaged = errors.New("damaged")

// DB is the pair of bolt files and what containerd builds on them. This file is the only one that names
// containerd's plugins/ packages: their interfaces are outside containerd's stability promise.
type DB struct {
	root  string
	Meta  *metadata.DB
	layer *layers.Store // the overlay snapshotter below the metadata store
}

func metadataFile(root string) string { return filepath.Join(root, "metadata.db") }
func layerDir(root string) string     { return filepath.Join(root, "layers") }
func layerFile(root string) string    { return filepath.Join(layerDir(root), "metadata.db") }
func contentDir(root string) string   { return filepath.Join(root, "content") }

// SnapshotDir has the directories of all layers.
func SnapshotDir(root string) string { return filepath.Join(layerDir(root), "snapshots") }

// Open opens the store. A damaged one is set aside; the blobs stay and are used again by digest.
func Open(ctx context.Context, root string, log *slog.Logger) (*DB, error) {
	d, err := tryDatabase(ctx, root)
	if err == nil || !errors.Is(err, errDamaged) {
		return d, err
	}
	aside, aerr := setAside(root)
	if aerr != nil {
		return nil, errors.Join(err, aerr)
	}
	log.ErrorContext(ctx, "image store is damaged: set aside, starting with an empty one; images will be pulled again",
		"err", err, "path", aside)
	return tryDatabase(ctx, root)
}

func tryDatabase(ctx context.Context, root string) (*DB, error) {
	found := 0
	for _, file := range []string{metadataFile(root), layerFile(root)} {
		exists, err := checkBolt(file)
		if err != nil {
			return nil, err
		}
		if exists {
			found++
		}
	}
	if found == 1 {
		return nil, fmt.Errorf("one of the two databases is missing: %w", errDamaged)
	}
	d := &DB{root: root}
	if err := guard(func() error { return d.open(ctx) }); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *DB) open(ctx context.Context) error {
	blobs, err := local.NewStore(contentDir(d.root))
	if err != nil {
		return fmt.Errorf("open content store: %w", err)
	}
	// The freelist is kept in the file (no NoFreelistSync): rebuilding it at open walks the tree in a goroutine of
	// bolt's, where a damaged page is a panic that cannot be recovered.
	db, err := bolt.Open(metadataFile(d.root), 0o600, &bolt.Options{Timeout: lockWait, NoStatistics: true})
	if err != nil {
		return boltError(err)
	}
	if err := os.MkdirAll(layerDir(d.root), 0o700); err != nil {
		return errors.Join(err, db.Close())
	}
	ms, err := storage.NewMetaStore(layerFile(d.root), func(o *bolt.Options) error {
		o.Timeout = lockWait
		return nil
	})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	overlays, err := overlay.NewSnapshotter(layerDir(d.root),
		overlay.WithMetaStore(ms), overlay.AsynchronousRemove, overlay.WithUpperdirLabel)
	if err != nil {
		return errors.Join(fmt.Errorf("open overlay snapshotter: %w", err), db.Close())
	}
	d.layer = layers.NewStore(overlays, ms, SnapshotDir(d.root))
	d.Meta = metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{Snapshotter: d.layer})
	if err := d.Meta.Init(ctx); err != nil {
		return fmt.Errorf("open metadata store: %w", err)
	}
	// The snapshotter opens its file at the first use: let that be now.
	err = d.layer.Walk(ctx, func(context.Context, snapshots.Info) error { return nil })
	if err != nil && !errdefs.IsNotFound(err) {
		return boltError(err)
	}
	return nil
}

// Close closes both databases.
func (d *DB) Close() error {
	var errs []error
	if d.Meta != nil {
		errs = append(errs, d.Meta.Close())
	}
	if d.layer != nil {
		errs = append(errs, d.layer.Close())
	}
	return errors.Join(errs...)
}

// Recover makes room for new layers where a crash left some half made, and removes downloads that nothing names.
func (d *DB) Recover(ctx context.Context) error {
	return errors.Join(d.layer.SetAside(ctx), removeNameless(ctx, filepath.Join(contentDir(d.root), "ingest")))
}

// Cleanup deletes layer directories without a record, and stores that were set aside before the last boot: containers
// that run on their layers can't have survived it.
func (d *DB) Cleanup(ctx context.Context) error {
	var errs []error
	if err := d.layer.RemoveUnused(ctx); !errdefs.IsNotFound(err) { // not found: there never was a layer
		errs = append(errs, err)
	}
	aside, err := filepath.Glob(filepath.Join(d.root, asidePrefix+"*"))
	errs = append(errs, err)
	boot, err := sys.BootID()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, dir := range aside {
		if !strings.HasPrefix(filepath.Base(dir), asidePrefix+boot) {
			errs = append(errs, tree.Remove(ctx, dir))
		}
	}
	return errors.Join(errs...)
}

// removeNameless removes downloads whose removal a kill cut off: without the file that names them the content store
// neither lists nor removes them.
func removeNameless(ctx context.Context, ingests string) error {
	dirs, err := filepath.Glob(filepath.Join(ingests, "*"))
	for _, dir := range dirs {
		if _, missing := os.Stat(filepath.Join(dir, "ref")); errors.Is(missing, fs.ErrNotExist) {
			err = errors.Join(err, tree.Remove(ctx, dir))
		}
	}
	return err
}

// setAside moves both databases and the layers out of the way. Mounts made from those layers go on working.
func setAside(root string) (string, error) {
	boot, err := sys.BootID()
	if err != nil {
		return "", err
	}
	aside := filepath.Join(root, fmt.Sprintf("%s%s-%d", asidePrefix, boot, time.Now().UnixNano()))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return "", err
	}
	for _, path := range []string{metadataFile(root), layerDir(root)} {
		err := os.Rename(path, filepath.Join(aside, filepath.Base(path)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("set damaged store aside: %w", err)
		}
	}
	return aside, nil
}

// checkBolt reads every key of a bolt file, so that damage shows now and not in the middle of a pull.
func checkBolt(file string) (exists bool, err error) {
	fi, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if fi.Size() == 0 { // died before the first page was written
		return false, os.Remove(file)
	}
	return true, guard(func() error {
		db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockWait, NoStatistics: true})
		if err != nil {
			return boltError(err)
		}
		// Not deferred: closing a database inside a panic would wait for the transaction that panicked.
		err = db.View(func(tx *bolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return readBucket(b) })
		})
		return errors.Join(err, db.Close())
	})
}

func readBucket(b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if v != nil {
			return nil
		}
		child := b.Bucket(k)
		if child == nil {
			return fmt.Errorf("bucket %q: %w", k, errDamaged)
		}
		return readBucket(child)
	})
}

// guard turns bolt's panics, and the fault of reading a truncated map, into errDamaged.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v: %w", r, errDamaged)
		}
	}()
	return f()
}

// boltError tells a database in use and a machine that can't read it from one that is damaged.
func boltError(err error) error {
	var path *fs.PathError
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("database is in use by another process: %w", errdefs.ErrFailedPrecondition)
	case errors.As(err, &path), errors.Is(err, fs.ErrPermission):
		return err
	default:
		return fmt.Errorf("%w: %w", err, errDamaged)
	}
}
