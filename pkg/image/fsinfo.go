// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image/layers"
)

// fsInfoPatience is how long FsInfo waits, in all, for directories that are being walked.
const fsInfoPatience = 500 * time.Millisecond

// FsUsage is the use that the store makes of one filesystem.
type FsUsage struct {
	Mountpoint string // a directory on the filesystem
	Time       time.Time
	Usage
}

// FsInfo is what images and what containers take. Both name the same directory: they are on one filesystem, and the
// kubelet takes different names for two.
type FsInfo struct {
	Image, Container FsUsage
}

// FsInfo sums up blobs, partial downloads and unpacked layers, and of containers the writable layers and the volumes
// that their images declare: both fill the same disk. (A container's own figure has the layer only, as with other
// runtimes: the kubelet evicts pods for it, and volumes never were part of that limit.) What containers wrote is
// measured in the background: the answer has the last figures, and of a directory that is being walked for the first
// time what was counted so far. A directory that can't be measured is logged and takes no other along. The error is
// that of the database.
func (s *Service) FsInfo(ctx context.Context) (FsInfo, error) {
	ctx = s.context(ctx)
	now := time.Now()
	info := FsInfo{Image: FsUsage{Mountpoint: s.root, Time: now}, Container: FsUsage{Mountpoint: s.root, Time: now}}
	if err := s.addBlobs(ctx, &info.Image.Usage); err != nil {
		return info, err
	}
	growing, err := s.addLayers(ctx, &info.Image.Usage)
	if err != nil {
		return info, err
	}
	written, err := s.writtenDirs(ctx)
	if err != nil {
		return info, err
	}
	s.samples.only(slices.Concat(written, growing))
	ctx, cancel := context.WithTimeout(ctx, fsInfoPatience)
	defer cancel()
	layers, lack := s.samples.useOf(ctx, growing)
	info.Image.add(layers)
	var lacking int
	info.Container.Usage, lacking = s.samples.useOf(ctx, written)
	if lack += lacking; lack > 0 {
		s.log.DebugContext(ctx, "disk use without some directories that nothing is known of yet", "directories", lack)
	}
	return info, nil
}

// writtenDirs are the directories that containers write to.
func (s *Service) writtenDirs(ctx context.Context) ([]string, error) {
	keys, err := s.Keys(ctx)
	if err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(keys))
	for _, key := range keys {
		dirs = append(dirs, s.upperDir(key))
		if _, err := os.Lstat(s.volumesDir(key)); err == nil {
			dirs = append(dirs, s.volumesDir(key))
		}
	}
	return dirs, nil
}

func (u *Usage) add(more Usage) {
	u.Bytes += more.Bytes
	u.Inodes += more.Inodes
}

func (s *Service) addBlobs(ctx context.Context, sum *Usage) error {
	err := s.content.Walk(ctx, func(i content.Info) error {
		sum.add(Usage{uint64(i.Size), 1})
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
		sum.add(Usage{uint64(p.Offset), 1})
	}
	return nil
}

// addLayers adds the layers that are complete, whose use is on record, and returns the directories of those that are
// being unpacked.
func (s *Service) addLayers(ctx context.Context, sum *Usage) (growing []string, err error) {
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
			sum.add(Usage{uint64(u.Size), uint64(u.Inodes)})
		} else if !errdefs.IsNotFound(err) && !errors.Is(err, iofs.ErrNotExist) { // else it is gone since
			s.log.WarnContext(ctx, "disk use without a layer", "layer", name, "err", err)
		}
	}
	return growing, nil
}

// RootFSUsage is what a container wrote, measured in the last 10 s, or longer ago for a layer that takes long to walk:
// several readers ask for it at the same pace. When ctx ends before a walk does, it is the last known figure. Errors:
// ErrNotFound when there is no such writable layer, ErrUnavailable when nothing is known yet.
func (s *Service) RootFSUsage(ctx context.Context, key string) (Usage, error) {
	if err := checkKey(key); err != nil {
		return Usage{}, err
	}
	return s.samples.use(s.context(ctx), s.upperDir(key))
}
