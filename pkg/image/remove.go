// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/cri-shim/cri-shim/pkg/image/database"
)

const (
	pinPrefix   = "pin-"
	labelGCRoot = "containerd.io/gc.root"
)

// Remove takes all names of the image that ref means away and frees the space that no other image uses. Layers under a
// container's root filesystem stay until that is removed. ErrNotFound when there is no such image. Once begun it
// doesn't stop for the caller's deadline.
func (s *Service) Remove(ctx context.Context, ref string) error {
	ctx, cancel := s.cleanupContext(ctx)
	defer cancel()
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	id, err := c.resolve(ref)
	if err != nil {
		return err
	}
	recs, err := s.images.List(ctx, fmt.Sprintf("labels.%q==%s", labelConfig, id))
	if err != nil {
		return fmt.Errorf("list names of image %s: %w", id, err)
	}
	err = s.meta.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, rec := range recs {
			if err := s.images.Delete(ctx, rec.Name); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
	s.known.changed()
	if err != nil {
		return fmt.Errorf("remove image %q: %w", ref, err)
	}
	return s.GC(ctx)
}

// GC frees blobs and layers that no image, no pull and no container uses.
func (s *Service) GC(ctx context.Context) error {
	ctx, cancel := s.cleanupContext(ctx)
	defer cancel()
	err := s.sweepPins(ctx)
	if _, gerr := s.meta.GarbageCollect(ctx); gerr != nil {
		err = errors.Join(err, gerr)
	}
	if err != nil {
		return fmt.Errorf("collect unused image content: %w", err)
	}
	return nil
}

// pin makes the view that keeps an image's layers, and through which containers see them. Idempotent.
func (s *Service) pin(ctx context.Context, chain string) error {
	s.pins.RLock()
	defer s.pins.RUnlock()
	return s.pinLocked(ctx, chain)
}

func (s *Service) pinLocked(ctx context.Context, chain string) error {
	if chain == "" {
		return nil
	}
	if _, err := s.layers.Mounts(ctx, pinPrefix+chain); err == nil {
		return nil
	}
	_, err := s.layers.View(ctx, pinPrefix+chain, chain,
		snapshots.WithLabels(map[string]string{labelGCRoot: time.Now().UTC().Format(time.RFC3339)}))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("pin layers %s: %w", chain, err)
	}
	return nil
}

// Hold calls use with the layers of an image, by their chain id, "" for none. They stay until it returns, and after that
// for as long as Options.InUse names them. Errors: ErrNotFound without the image, those of use.
func (s *Service) Hold(ctx context.Context, id string, use func(chain string) error) error {
	ctx = s.context(ctx)
	s.pins.RLock()
	defer s.pins.RUnlock()
	img, err := s.images.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("look up image: %w", err)
	}
	chain := img.Labels[labelChain]
	if err := s.pinLocked(ctx, chain); err != nil {
		return err
	}
	return use(chain)
}

// Released is told that something made from an image is gone. If the image went first, this may have been the last use
// of its layers.
func (s *Service) Released(ctx context.Context, id string) error {
	if _, err := s.images.Get(s.context(ctx), id); errdefs.IsNotFound(err) {
		return s.GC(ctx)
	}
	return nil
}

// SnapshotDir has the directories of all layers, each below one of its own.
func (s *Service) SnapshotDir() string { return database.SnapshotDir(s.root) }

// Lowers returns the directories of an image's layers, top first; none for an image without layers.
func (s *Service) Lowers(ctx context.Context, chain string) ([]string, error) {
	if chain == "" {
		return nil, nil
	}
	mounts, err := s.layers.Mounts(s.context(ctx), pinPrefix+chain)
	if err != nil {
		return nil, fmt.Errorf("look up layers %s: %w", chain, err)
	}
	for _, m := range mounts {
		if m.Type == "bind" {
			return []string{m.Source}, nil
		}
		for _, o := range m.Options {
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return strings.Split(dirs, ":"), nil
			}
		}
	}
	return nil, fmt.Errorf("look up layers %s: no layer directories: %w", chain, errdefs.ErrDataLoss)
}

// sweepPins lets go of layers whose images are gone and that no root filesystem or volume uses.
func (s *Service) sweepPins(ctx context.Context) error {
	s.pins.Lock()
	defer s.pins.Unlock()
	all, err := s.images.List(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, rec := range all {
		used[pinPrefix+rec.Labels[labelChain]] = true
	}
	if s.inUse != nil {
		chains, err := s.inUse()
		if err != nil {
			return err
		}
		for _, chain := range chains {
			used[pinPrefix+chain] = true
		}
	}
	var unused []string
	err = s.eachLayer(ctx, func(i snapshots.Info) {
		if i.Kind == snapshots.KindView && strings.HasPrefix(i.Name, pinPrefix) && !used[i.Name] {
			unused = append(unused, i.Name)
		}
	})
	for _, name := range unused {
		err = errors.Join(err, s.layers.Remove(ctx, name))
	}
	return err
}
