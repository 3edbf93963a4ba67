// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// diskPatience is how long one answer, of however many containers, waits for the use of writable layers.
const diskPatience = 250 * time.Millisecond

// diskQuestions ask for the disk use of all containers of one answer at once, so that they wait together.
type diskQuestions struct {
	asked  map[string]*diskQuestion // by container id
	cancel context.CancelFunc
}

type diskQuestion struct {
	done chan struct{}
	disk Disk // with err: written before done is closed
	err  error
}

func askDisks(ctx context.Context, all []Container) *diskQuestions {
	ctx, cancel := context.WithTimeout(ctx, diskPatience)
	q := &diskQuestions{asked: make(map[string]*diskQuestion, len(all)), cancel: cancel}
	for _, c := range all {
		if c.Disk == nil || q.asked[c.ID] != nil {
			continue
		}
		one := &diskQuestion{done: make(chan struct{})}
		q.asked[c.ID] = one
		go func() {
			defer close(one.done)
			one.disk, one.err = c.Disk(ctx)
		}()
	}
	return q
}

// close ends the questions that have no answer yet.
func (q *diskQuestions) close() { q.cancel() }

// disk is the container's disk use, if it was to be had in time.
func (s *Service) disk(q *diskQuestions, c Container) (Disk, bool) {
	one := q.asked[c.ID]
	if one == nil {
		return Disk{}, false
	}
	<-one.done // at the latest when the patience is over
	if one.err != nil {
		s.log.Debug("disk statistics unavailable", "container", c.ID, "err", one.err)
	}
	return one.disk, one.err == nil
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
