// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

const (
	usageAge   = 10 * time.Second // how old the usage of a writable layer may be
	usageShare = 20               // walking a large layer may take 1/20 of the time
)

// Usage is disk space.
type Usage struct {
	Bytes, Inodes uint64
}

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

// FsInfo sums up blobs, partial downloads and unpacked layers, and the writable layers of containers.
func (s *Service) FsInfo(ctx context.Context) (FsInfo, error) {
	ctx = s.context(ctx)
	now := time.Now()
	info := FsInfo{Image: FsUsage{Mountpoint: s.root, Time: now}, Container: FsUsage{Mountpoint: s.root, Time: now}}
	img := &info.Image.Usage
	err := s.content.Walk(ctx, func(i content.Info) error {
		img.Bytes += uint64(i.Size)
		img.Inodes++
		return nil
	})
	if err != nil {
		return info, fmt.Errorf("measure blobs: %w", err)
	}
	parts, err := s.content.ListStatuses(ctx)
	if err != nil {
		return info, fmt.Errorf("measure partial blobs: %w", err)
	}
	for _, p := range parts {
		img.Bytes += uint64(p.Offset)
		img.Inodes++
	}
	if err := s.addLayers(ctx, img); err != nil {
		return info, err
	}
	keys, err := s.Keys(ctx)
	if err != nil {
		return info, err
	}
	for _, key := range keys {
		u, err := s.RootFSUsage(ctx, key)
		if err != nil && !errdefs.IsNotFound(err) {
			return info, err
		}
		info.Container.Bytes += u.Bytes
		info.Container.Inodes += u.Inodes
	}
	return info, nil
}

func (s *Service) addLayers(ctx context.Context, sum *Usage) error {
	var names []string
	err := s.eachLayer(ctx, func(i snapshots.Info) {
		if i.Kind != snapshots.KindView {
			names = append(names, i.Name)
		}
	})
	for _, name := range names {
		u, uerr := s.layers.Usage(ctx, name)
		if errdefs.IsNotFound(uerr) || errors.Is(uerr, iofs.ErrNotExist) {
			continue // gone since
		}
		err = errors.Join(err, uerr)
		sum.Bytes += uint64(u.Size)
		sum.Inodes += uint64(u.Inodes)
	}
	if err != nil {
		return fmt.Errorf("measure layers: %w", err)
	}
	return nil
}

// RootFSUsage is what a container wrote. The answer may be 10 s old, more for a layer that takes long to walk: several
// readers ask for it at the same pace. ErrNotFound when there is no such writable layer.
func (s *Service) RootFSUsage(ctx context.Context, key string) (Usage, error) {
	if err := checkKey(key); err != nil {
		return Usage{}, err
	}
	if u, ok := s.usages.fresh(key); ok {
		return u, nil
	}
	start := time.Now()
	du, err := fs.DiskUsage(ctx, s.upperDir(key))
	if errors.Is(err, iofs.ErrNotExist) {
		return Usage{}, fmt.Errorf("writable layer %s: %w", key, errdefs.ErrNotFound)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("measure writable layer %s: %w", key, err)
	}
	u := Usage{Bytes: uint64(du.Size), Inodes: uint64(du.Inodes)}
	s.usages.keep(key, u, start)
	return u, nil
}

// usageCache holds the last measured use of writable layers. The zero value is ready.
type usageCache struct {
	mu    sync.Mutex // guards known
	known map[string]knownUsage
}

type knownUsage struct {
	Usage
	until time.Time
}

func (c *usageCache) fresh(key string) (Usage, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[key]
	return k.Usage, ok && time.Now().Before(k.until)
}

func (c *usageCache) keep(key string, u Usage, start time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]knownUsage{}
	}
	now := time.Now()
	c.known[key] = knownUsage{u, now.Add(max(usageAge, usageShare*now.Sub(start)))}
}

func (c *usageCache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, key)
}
