// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const settleFor = 20 * time.Millisecond

// Run watches the configuration directory until ctx ends, so that a change is known, and logged, when it happens and
// not at the next use. It watches the nearest directory that exists, so the configuration directory may come later, go
// and come back. Without a watch (inotify instances used up) it says so and changes still count on use.
func (s *Service) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn("no watch on the cni configuration, changes are seen on use only", "err", err)
		<-ctx.Done()
		return nil
	}
	defer w.Close()
	watched := ""
	for {
		watched = s.rewatch(w, watched)
		s.current() // also what happened before the watch stood
		select {
		case <-ctx.Done():
			return nil
		case ev := <-w.Events:
			// The directory itself went, or what is watched in its place changed: look where to watch now.
			if settle(w, ev, watched) {
				watched = ""
			}
		case err := <-w.Errors: // an overflow loses events, no more; the look above makes up for it
			s.log.Debug("cni configuration watch", "err", err)
		}
	}
}

// settle waits until nothing has happened for a moment, so that a file being written is not taken for a broken one.
// It reports whether one of the events was the end of the watched directory itself.
func settle(w *fsnotify.Watcher, ev fsnotify.Event, watched string) bool {
	gone := false
	for range 50 { // bounded: the directory may change all the time
		gone = gone || ev.Name == watched && (ev.Op.Has(fsnotify.Remove) || ev.Op.Has(fsnotify.Rename))
		select {
		case ev = <-w.Events:
		case <-time.After(settleFor):
			return gone
		}
	}
	return gone
}

// rewatch moves the watch to the nearest existing directory and returns it. It is repeated until it holds, as a
// directory may appear between the look and the watch.
func (s *Service) rewatch(w *fsnotify.Watcher, watched string) string {
	for range 10 {
		dir := nearestDir(s.o.ConfDir)
		if dir == watched {
			return watched
		}
		for _, old := range w.WatchList() {
			_ = w.Remove(old)
		}
		if err := w.Add(dir); err != nil {
			s.log.Debug("cni configuration watch", "dir", dir, "err", err)
			watched = ""
			continue
		}
		watched = dir
	}
	return watched
}

func nearestDir(dir string) string {
	for {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return dir
		}
		dir = up
	}
}
