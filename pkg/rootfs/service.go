// SPDX-License-Identifier: Apache-2.0

// Package rootfs makes root filesystems of containers, and volumes, from images.
//
// A container's writable layer is a plain directory below rootfs/, with a record of the image it came from. It is made
// and removed without a database write, so that creating containers in parallel doesn't queue for one fsync. The layers
// of an image that a record names stay, whatever happens to the image. What containers wrote is measured in the
// background: no directory of theirs holds anybody up.
//
// The package keeps no container state and removes nothing unasked.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/keyed"
)

// cleanupTimeout is how long a removal whose caller is gone waits for another call for the same root filesystem.
const cleanupTimeout = time.Minute

// Service makes and measures root filesystems. All methods may be called at once from any goroutine.
type Service struct {
	root    string // of the image store
	images  *image.Service
	log     *slog.Logger
	keys    keyed.Lock // rootfs and volume keys
	samples *samples
	mount   func(m mount.Mount, target string) error // of overlays
}

// Open makes the directory of root filesystems in that of the image store, and unmounts what a crash left half mounted.
// The store must have been opened with [Chains] of the same directory.
func Open(images *image.Service, root string, log *slog.Logger) (*Service, error) {
	s := &Service{root: filepath.Clean(root), images: images, log: log, samples: newSamples(log)}
	s.mount = func(m mount.Mount, target string) error { return m.Mount(target) }
	if err := os.MkdirAll(s.rootfsDir(), 0o700); err != nil {
		return nil, fmt.Errorf("open root filesystems: %w", err)
	}
	if err := s.sweepIDMaps(); err != nil {
		// What recovery couldn't unmount is unmounted when its root filesystem is removed.
		log.Warn("clean up root filesystems after start", "err", err)
	}
	return s, nil
}

// Close ends the walks of directories. Mounted root filesystems stay mounted.
func (s *Service) Close() { s.samples.close() }

// Chains finds the layers that root filesystems in the image store at root are made from, also before Open. A half-made
// one has none. When a record can't be read now, there is an error and no list: layers that are not in it are removed.
func Chains(root string) func() ([]string, error) {
	s := &Service{root: filepath.Clean(root)}
	return func() ([]string, error) {
		keys, err := s.Keys()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		var chains []string
		for _, key := range keys {
			rec, err := s.readRecord(key)
			switch {
			case err == nil:
				chains = append(chains, rec.Chain)
			case !noRecord(err):
				return nil, err
			}
		}
		return chains, err
	}
}
