// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

const (
	diskPatience = 250 * time.Millisecond // how long one answer waits for a writable layer to be walked
	diskTimeout  = 2 * time.Minute        // for the walk itself
)

// disks lets a walk through a large writable layer go on without holding up the answer that started it: later ones get
// what the function has remembered meanwhile. The zero value is ready.
type disks struct {
	mu      sync.Mutex // guards walking
	walking map[string]*walk
}

type walk struct {
	done chan struct{}
	disk Disk
	err  error
}

// disk is the container's disk use, if it can be had soon.
func (s *Service) disk(ctx context.Context, c Container) (Disk, bool) {
	if c.Disk == nil {
		return Disk{}, false
	}
	w := s.disks.start(ctx, c)
	patience := time.NewTimer(diskPatience)
	defer patience.Stop()
	select {
	case <-w.done:
	case <-patience.C:
		return Disk{}, false
	case <-ctx.Done():
		return Disk{}, false
	}
	if w.err != nil {
		s.log.Debug("no disk statistics", "container", c.ID, "err", w.err)
	}
	return w.disk, w.err == nil
}

// start joins the walk under way for this container or begins one.
func (d *disks) start(ctx context.Context, c Container) *walk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.walking[c.ID]; w != nil {
		return w
	}
	if d.walking == nil {
		d.walking = map[string]*walk{}
	}
	w := &walk{done: make(chan struct{})}
	d.walking[c.ID] = w
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diskTimeout)
		defer cancel()
		w.disk, w.err = c.Disk(ctx)
		d.mu.Lock()
		delete(d.walking, c.ID)
		d.mu.Unlock()
		close(w.done)
	}()
	return w
}

// deviceNames remembers the names of block devices, which don't change under their number while in use.
type deviceNames struct {
	mu    sync.Mutex // guards known
	known map[[2]uint32]string
}

func (n *deviceNames) name(major, minor uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]uint32{major, minor}
	name, ok := n.known[key]
	if !ok {
		if n.known == nil || len(n.known) > 256 {
			n.known = map[[2]uint32]string{}
		}
		name = sys.BlockDevice(major, minor)
		n.known[key] = name
	}
	return name
}
