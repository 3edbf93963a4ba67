// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/cri-shim/cri-shim/pkg/image/database"
	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/pkg/image/manifest"
)

const parallelUnpacks = 2 // layers of one image; file creation, not decompression, is what takes the time

// unpack downloads and unpacks the layers that are missing. Layers are unpacked side by side and put on top of each
// other when they are committed.
func (s *Service) unpack(ctx context.Context, f remotes.Fetcher, root ocispec.Descriptor, sel manifest.Selection) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u, err := unpack.NewUnpacker(ctx, s.content,
		unpack.WithUnpackPlatform(unpack.Platform{
			Platform: platforms.All, SnapshotterKey: database.Snapshotter, Snapshotter: s.layers,
			SnapshotterCapabilities: []string{snapshots.RebaseCap}, Applier: guardedApplier{layers.NewApplier(s.content, s.layers)},
		}),
		unpack.WithLimiter(semaphore.NewWeighted(int64(s.downloads))),
		unpack.WithUnpackLimiter(semaphore.NewWeighted(parallelUnpacks)),
		unpack.WithDuplicationSuppressor(&s.blobs))
	if err != nil {
		return fmt.Errorf("prepare to unpack: %w", err)
	}
	children := images.SetChildrenMappedLabels(s.content, func(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return sel.Children[d.Digest], nil
	}, images.ChildGCLabels)
	h := u.Unpack(guardedHandler(images.Handlers(s.content.Handler(f), children)))
	if err := images.Dispatch(ctx, h, nil, root); err != nil {
		cancel()
		_, _ = u.Wait() // its error follows from the first
		return err
	}
	if _, err := u.Wait(); err != nil {
		return err
	}
	if sel.Chain == "" {
		return nil
	}
	if _, err := s.layers.Stat(ctx, sel.Chain.String()); err != nil {
		return fmt.Errorf("unpack layers: %w", err)
	}
	return nil
}

// diskSize is what the image takes on disk: the blobs that are kept and the unpacked layers, in bytes.
func (s *Service) diskSize(ctx context.Context, sel manifest.Selection) (uint64, error) {
	size := sel.Manifest.Size + sel.Config.Size
	for _, l := range sel.Layers {
		if i, err := s.content.Info(ctx, l.Digest); err == nil {
			size += i.Size
		}
	}
	for name := sel.Chain.String(); name != ""; {
		u, err := s.layers.Usage(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("measure layer: %w", err)
		}
		i, err := s.layers.Stat(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("measure layer: %w", err)
		}
		size += u.Size
		name = i.Parent
	}
	return uint64(size), nil
}
