// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// DiskUse sums up blobs, partial downloads and complete layers, and finds the directories of layers that are being
// unpacked, which nobody has measured yet. The error is that of the database.
func (s *Service) DiskUse(ctx context.Context) (sum tree.Usage, growing []string, err error) {
	ctx = s.context(ctx)
	if err := s.addBlobs(ctx, &sum); err != nil {
		return sum, nil, err
	}
	growing, err = s.addLayers(ctx, &sum)
	return sum, growing, err
}

func add(sum *tree.Usage, bytes, inodes int64) {
	sum.Bytes += uint64(bytes)
	sum.Inodes += uint64(inodes)
}

func (s *Service) addBlobs(ctx context.Context, sum *tree.Usage) error {
	err := s.content.Walk(ctx, func(i content.Info) error {
		add(sum, i.Size, 1)
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure blobs: %w", err)
	}
	parts, err := s.content.ListStatuses(ctx)
	if err != nil {
		s.log.WarnContext(ctx, "disk use without partial downloads", "err", err)
	}
	for _, p := range parts {
		add(sum, p.Offset, 1)
	}
	return nil
}

// addLayers adds the layers that are complete, whose use is on record, and returns the directories of those that are
// being unpacked.
func (s *Service) addLayers(ctx context.Context, sum *tree.Usage) (growing []string, err error) {
	var names []string
	err = s.eachLayer(ctx, func(i snapshots.Info) {
		switch i.Kind {
		case snapshots.KindCommitted:
			names = append(names, i.Name)
		case snapshots.KindActive:
			growing = append(growing, i.Labels[layers.LabelUpperDir])
		}
	})
	if err != nil {
		return nil, fmt.Errorf("measure layers: %w", err)
	}
	for _, name := range names {
		u, err := s.layers.Usage(ctx, name)
		if err == nil {
			add(sum, u.Size, u.Inodes)
		} else if !errdefs.IsNotFound(err) && !errors.Is(err, iofs.ErrNotExist) { // else it is gone since
			s.log.WarnContext(ctx, "disk use without a layer", "layer", name, "err", err)
		}
	}
	return growing, nil
}
