// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// fsInfoPatience is how long FsInfo waits, in all, for directories that are being walked.
const fsInfoPatience = 500 * time.Millisecond

// FsUsage is the use that the store makes of one filesystem.
type FsUsage struct {
	Mountpoint string // a directory on the filesystem
	Time       time.Time
	tree.Usage
}

// FsInfo is what images and what containers take. Both name the same directory: they are on one filesystem, and the
// kubelet takes different names for two.
type FsInfo struct {
	Image, Container FsUsage
}

// Mountpoint is a directory on the filesystem of images and of what containers write.
func (s *Service) Mountpoint() string { return s.root }

// FsInfo sums up blobs, partial downloads and unpacked layers, and of containers the writable layers and the volumes
// that their images declare: both fill the same disk. (A container's own figure has the layer only, as with other
// runtimes: the kubelet evicts pods for it, and volumes never were part of that limit.) What containers wrote is
// measured in the background: the answer has the last figures, and of a directory that is being walked for the first
// time what was counted so far. A directory that can't be measured is logged and takes no other along. The error is
// that of the database.
func (s *Service) FsInfo(ctx context.Context) (FsInfo, error) {
	now := time.Now()
	info := FsInfo{Image: FsUsage{Mountpoint: s.Mountpoint(), Time: now}, Container: FsUsage{Mountpoint: s.Mountpoint(), Time: now}}
	kept, growing, err := s.images.DiskUse(ctx)
	if err != nil {
		return info, err
	}
	info.Image.Usage = kept
	written, err := s.writtenDirs()
	if err != nil {
		return info, err
	}
	s.samples.only(slices.Concat(written, growing))
	ctx, cancel := context.WithTimeout(ctx, fsInfoPatience)
	defer cancel()
	layers, lack := s.samples.useOf(ctx, growing)
	info.Image.Bytes += layers.Bytes
	info.Image.Inodes += layers.Inodes
	var lacking int
	info.Container.Usage, lacking = s.samples.useOf(ctx, written)
	if lack += lacking; lack > 0 {
		s.log.DebugContext(ctx, "disk use without some directories that nothing is known of yet", "directories", lack)
	}
	return info, nil
}

// writtenDirs are the directories that containers write to.
func (s *Service) writtenDirs() ([]string, error) {
	keys, err := s.Keys()
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

// Usage is what a container wrote, measured in the last 10 s, or longer ago for a layer that takes long to walk:
// several readers ask for it at the same pace. When ctx ends before a walk does, it is the last known figure. Errors:
// ErrNotFound when there is no such writable layer, ErrUnavailable when nothing is known yet.
func (s *Service) Usage(ctx context.Context, key string) (tree.Usage, error) {
	if err := checkKey(key); err != nil {
		return tree.Usage{}, err
	}
	return s.samples.use(ctx, s.upperDir(key))
}
