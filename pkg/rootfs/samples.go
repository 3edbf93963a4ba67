// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/keyed"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

const (
	usageAge   = 10 * time.Second // how old the usage of a directory may be
	usageShare = 20               // walking a large one may take 1/20 of the time
	walkLimit  = 30 * time.Minute // for one walk
	closeLimit = 2 * time.Second  // for walks to end
)

var (
	errClosing   = fmt.Errorf("root filesystems are closing: %w", errdefs.ErrUnavailable)
	errForgotten = fmt.Errorf("directory is being removed: %w", errdefs.ErrNotFound)
)

// samples are the last measured uses of directories that others write to. A directory is walked in the background, on
// no request's context, by one of few walkers; callers wait as long as they choose and else get the last known figure.
type samples struct {
	log     *slog.Logger
	walkers *walkers
	walks   keyed.Flight[string, struct{}] // by path
	walk    func(ctx context.Context, path string, sofar func(tree.Usage)) (tree.Usage, error)

	mu    sync.Mutex         // guards known
	known map[string]*sample // by path
}

type sample struct {
	last  tree.Usage // of the last walk, or of the one under way if that has counted more
	whole bool       // last is of a walk that came to its end
	until time.Time
	err   error
}

func newSamples(log *slog.Logger) *samples {
	return &samples{log: log, walkers: newWalkers(), walk: tree.DiskUsage, known: map[string]*sample{}}
}

// use is what a directory takes: measured in the last seconds if that can be had before ctx ends, else the last known,
// which at first is what the walk has counted so far. Errors: ErrNotFound without the directory, ErrUnavailable when
// nothing is known yet.
func (m *samples) use(ctx context.Context, path string) (tree.Usage, error) {
	if walk := m.begin(ctx, path); walk != nil {
		select {
		case <-walk:
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.known[path]
	switch {
	case s != nil && errors.Is(s.err, fs.ErrNotExist):
		return tree.Usage{}, fmt.Errorf("measure %s: %w", path, errdefs.ErrNotFound)
	case s == nil, s.last == tree.Usage{}:
		return tree.Usage{}, fmt.Errorf("measure %s: no figure yet: %w", path, errdefs.ErrUnavailable)
	}
	return s.last, nil
}

// begin starts a walk if what is known is old, unless one is under way, and returns what is closed at its end; nil if
// none is needed.
func (m *samples) begin(ctx context.Context, path string) (walk <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.known[path]
	if s == nil {
		s = &sample{}
		m.known[path] = s
	}
	if time.Now().Before(s.until) {
		return nil
	}
	return m.walks.Start(ctx, path, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, walkLimit)
		defer cancel()
		m.measure(ctx, path, s)
		return struct{}{}, nil
	})
}

func (m *samples) measure(ctx context.Context, path string, s *sample) {
	var u tree.Usage
	t, err := m.walkers.begin(ctx)
	start := time.Now()
	if err == nil {
		u, err = m.walk(ctx, path, func(u tree.Usage) {
			m.counted(s, u)
			t.goOn(ctx)
		})
		t.end()
	}
	took := time.Since(start)
	m.counted(s, u)
	m.mu.Lock()
	defer m.mu.Unlock()
	missing, cut := errors.Is(err, fs.ErrNotExist), ctx.Err() != nil
	if !cut && u != (tree.Usage{}) { // it came to its end, whatever it could not read
		s.last, s.whole = u, true
	}
	if err != nil && !cut && !missing && (s.err == nil || s.err.Error() != err.Error()) {
		m.log.WarnContext(ctx, "disk use of a directory is incomplete: counted what could be read", "err", err)
	}
	s.err, s.until = err, time.Now().Add(max(usageAge, usageShare*took))
}

// counted raises what is known to what a walk has seen so far: a lower bound is better than nothing, or than the last
// figure of a directory that has grown.
func (m *samples) counted(s *sample, u tree.Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.whole || u.Bytes > s.last.Bytes {
		s.last = tree.Usage{Bytes: max(s.last.Bytes, u.Bytes), Inodes: max(s.last.Inodes, u.Inodes)}
	}
}

// useOf sums up several directories, asked for at once. A directory that is not there counts nothing. lacking are
// those of which nothing is known yet.
func (m *samples) useOf(ctx context.Context, paths []string) (sum tree.Usage, lacking int) {
	for _, path := range paths {
		m.begin(ctx, path)
	}
	for _, path := range paths {
		u, err := m.use(ctx, path)
		if err != nil && !errdefs.IsNotFound(err) {
			lacking++
		}
		sum.Bytes += u.Bytes
		sum.Inodes += u.Inodes
	}
	return sum, lacking
}

// only forgets all directories but these.
func (m *samples) only(paths []string) {
	kept := make(map[string]bool, len(paths))
	for _, path := range paths {
		kept[path] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for path := range m.known {
		if !kept[path] {
			m.drop(path)
		}
	}
}

// forget ends the walk of a directory that is about to go, and what is known of it.
func (m *samples) forget(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(path)
}

func (m *samples) drop(path string) {
	m.walks.Forget(path, errForgotten)
	delete(m.known, path)
}

// close ends all walks and waits for them, but not for one that hangs.
func (m *samples) close() {
	patience := time.NewTimer(closeLimit)
	defer patience.Stop()
	select {
	case <-m.walks.Close(errClosing):
	case <-patience.C:
	}
}
