// SPDX-License-Identifier: Apache-2.0

// Package image keeps the node's images.
//
// Images live in containerd's metadata store, content store and overlay snapshotter, used as libraries; nothing is
// kept twice. An image is known by its id, the digest of its config; every name of it is one record in the store.
// What a registry says is not believed: blobs are checked against their digest before they are visible, layers against
// the config's diff ids, and layer files reach the disk (SyncFs) before the layer is committed.
//
// One read-only view per unpacked image pins its layers, and lives until the image is gone and no root filesystem is
// made from it: who makes those says which layers they have.
//
// The package doesn't decide when to pull, mounts nothing and starts no work on its own.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image/blobs"
	"github.com/cri-shim/cri-shim/pkg/image/database"
	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/pkg/keyed"
)

const (
	namespace = "k8s.io"

	defaultDownloads       = 3
	defaultProgressTimeout = 5 * time.Minute
	cleanupTimeout         = time.Minute
)

// Options says where images are kept and how they are pulled.
type Options struct {
	Root            string                              // absolute directory; made when missing
	RegistryConfig  string                              // certs.d tree of hosts.toml, read again at each pull; "" = the registries themselves
	MaxDownloads    int                                 // blobs in flight per pull; 0 = 3
	ProgressTimeout time.Duration                       // a pull without a byte for this long is given up; 0 = 5 min, negative = never
	Log             *slog.Logger                        // nil = discard
	InUse           func() (chains []string, err error) // layers that root filesystems are made from; nil = none
}

// Service is the node's image store. All methods may be called at once from any goroutine.
type Service struct {
	root            string
	inUse           func() (chains []string, err error)
	registryConfig  string
	downloads       int
	progressTimeout time.Duration
	log             *slog.Logger

	db      *database.DB
	meta    *metadata.DB
	content *blobs.Store
	images  images.Store
	leases  leases.Manager
	layers  *layers.Rebaser // through the metadata store

	blobs   keyed.Lock // what the unpacker fetches or unpacks
	flights keyed.Flight[flightKey, string]
	known   catalogCache
	working sync.Map // ids of leases that pulls in this process hold
	// pins is held shared while a view is made or a container takes one, and alone while unused views are swept.
	pins sync.RWMutex
}

// Open opens or makes the store and finishes what a crash left. A damaged database never stops it: the store is set
// aside with an error in the log and an empty one takes its place. Errors: ErrFailedPrecondition when another process
// has the store open, ErrInvalidArgument for a relative root.
func Open(ctx context.Context, o Options) (*Service, error) {
	if !filepath.IsAbs(o.Root) {
		return nil, fmt.Errorf("open image store: root %q is not absolute: %w", o.Root, errdefs.ErrInvalidArgument)
	}
	if strings.ContainsAny(o.Root, `:,\`) {
		return nil, fmt.Errorf("open image store: root %q has a character that overlay options can't carry: %w", o.Root, errdefs.ErrInvalidArgument)
	}
	s := &Service{
		root: filepath.Clean(o.Root), inUse: o.InUse, registryConfig: o.RegistryConfig, downloads: o.MaxDownloads,
		progressTimeout: o.ProgressTimeout, log: o.Log,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.downloads <= 0 {
		s.downloads = defaultDownloads
	}
	if s.progressTimeout == 0 {
		s.progressTimeout = defaultProgressTimeout
	}
	// Decoders and buffers are as large as the rest of the daemon: give them back at the end of the last pull, not in minutes.
	s.flights.Idle = debug.FreeOSMemory
	quietLibraries(s.log)
	ctx = s.context(ctx)
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	var err error
	if s.db, err = database.Open(ctx, s.root, s.log); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", s.root, err)
	}
	s.meta = s.db.Meta
	s.content = blobs.New(s.meta, s.log)
	s.images = metadata.NewImageStore(s.meta)
	s.leases = metadata.NewLeaseManager(s.meta)
	s.layers = layers.NewRebaser(s.meta.Snapshotter(database.Snapshotter))
	if err := s.recover(ctx); err != nil {
		// What recovery couldn't remove costs disk space, not correctness.
		s.log.WarnContext(ctx, "clean up image store after start", "err", err)
	}
	return s, nil
}

// Close cuts running pulls off, waits for them and closes the store.
func (s *Service) Close() error {
	<-s.flights.Close(errClosing)
	return s.db.Close()
}

// context gives ctx what containerd's stores look up in it.
func (s *Service) context(ctx context.Context) context.Context {
	return withLibraryLog(namespaces.WithNamespace(ctx, namespace), s.log)
}

// cleanupContext outlives the caller, but not for long.
func (s *Service) cleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.context(ctx)), cleanupTimeout)
}

// recover forgets what pulls that died with the last daemon left behind, before a new one begins: CleanUp frees its
// space. Their partial blobs stay for a day: that is what lets the next pull go on where the dead one stopped.
func (s *Service) recover(ctx context.Context) error {
	var dead []string
	err := s.eachLayer(ctx, func(i snapshots.Info) {
		if i.Kind == snapshots.KindActive {
			dead = append(dead, i.Name)
		}
	})
	for _, name := range dead {
		err = errors.Join(err, s.layers.Remove(ctx, name))
	}
	return errors.Join(err, s.shelveAll(ctx), s.db.Recover(ctx))
}

// CleanUp frees what nothing names any more, such as layers that a pull was unpacking when the last daemon died. It is
// called once, beside calls: an image's author decides how long it takes.
func (s *Service) CleanUp(ctx context.Context) error {
	ctx = s.context(ctx)
	return errors.Join(s.GC(ctx), s.db.Cleanup(ctx))
}

// eachLayer calls f for all snapshots. A store that never had one has no place for them yet: that is none.
func (s *Service) eachLayer(ctx context.Context, f func(snapshots.Info)) error {
	err := s.layers.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		f(i)
		return nil
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
