// SPDX-License-Identifier: Apache-2.0

package hostpath_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys/hostpath"
)

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode()
}

// TestHostPathIsMade: a missing path becomes a directory that anybody can enter, with its parents, under any umask.
func TestHostPathIsMade(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "private"), 0o700); err != nil {
		t.Fatal(err)
	}
	var paths hostpath.Paths
	for _, path := range []string{"a/b/c", "a/b/d/", "a//e/../f", "private/x", "file", "private"} {
		if err := paths.Exists(t.Context(), dir+"/"+path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for path, want := range map[string]os.FileMode{
		"a": 0o755, "a/b": 0o755, "a/b/c": 0o755, "a/b/d": 0o755, "a/f": 0o755, "private": 0o700, "private/x": 0o755,
	} {
		if got := mode(t, filepath.Join(dir, path)); got != want|os.ModeDir {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
	if got := mode(t, file); got != 0o600 {
		t.Errorf("a file became %v", got)
	}
	if err := paths.Directory(t.Context(), file); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file as a directory: %v", err)
	}
}

func TestHostPathCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"dangling": "nowhere", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var paths hostpath.Paths
	for _, path := range []string{"file/below", "dangling", "dangling/below", "loop", "loop/below", string(make([]byte, 1)), "missing\x00"} {
		if err := paths.Exists(t.Context(), filepath.Join(dir, path)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, want an error that blames the path", path, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("the target of a dangling link was made")
	}
	if err := paths.Exists(t.Context(), "/sys/cri-shim-test/x"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a directory in /sys: %v, want an error that blames the file system", err)
	}
}

func TestDirectoryBelow(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for name, target := range map[string]string{"out": outside, "up": "..", "in": "real"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var paths hostpath.Paths
	for rel, ok := range map[string]bool{"real/deep": true, "in/other": true, ".": true, "out/x": false, "up/x": false, "../x": false} {
		if rel == "in/other" {
			_ = os.Mkdir(filepath.Join(dir, "real"), 0o755)
		}
		if err := paths.DirectoryBelow(t.Context(), dir, rel); (err == nil) != ok {
			t.Errorf("%s: %v, want success: %t", rel, err, ok)
		}
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("made outside: %v", left)
	}
}

// TestHostPathHangs: a path that does not answer costs each caller its patience and the daemon one thread, and other
// paths answer meanwhile.
func TestHostPathHangs(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo") // opening one blocks as a dead file server does
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	var paths hostpath.Paths
	asked := make(chan struct{}, 100)
	hang := func() error {
		asked <- struct{}{}
		f, err := os.OpenFile(fifo, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if err := paths.Ask(ctx, fifo, hang); !errors.Is(err, context.Canceled) || !errdefs.IsUnavailable(err) {
				t.Errorf("the end of the caller's patience: %v", err)
			}
		})
	}
	<-asked
	limited, done := hostpath.LimitPaths(t.Context(), time.Millisecond)
	defer done()
	err := paths.Ask(limited, fifo, hang)
	if !errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "took longer than 1ms") {
		t.Errorf("the end of the limit: %v, want that the path is unavailable and no deadline of the caller's", err)
	}
	if err := paths.Exists(t.Context(), t.TempDir()); err != nil {
		t.Errorf("another path meanwhile: %v", err)
	}
	cancel()
	callers.Wait()
	if n := len(asked); n > 0 {
		t.Errorf("the path was asked %d times more while it did not answer", n)
	}
	w, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := paths.Ask(t.Context(), fifo, hang); err != nil {
		t.Errorf("once it answers: %v", err)
	}
}

// TestWalkHasALimit: a walk that goes on for ever is told to end, one that hangs is left behind, and both callers hear
// that the path is unavailable.
func TestWalkHasALimit(t *testing.T) {
	var paths hostpath.Paths
	ended, hang := make(chan error, 1), make(chan struct{})
	defer close(hang)
	for path, walk := range map[string]func(context.Context) error{
		"/large": func(ctx context.Context) error {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return fmt.Errorf("walk /large: %w: %w", context.Cause(ctx), errdefs.ErrUnavailable)
		},
		"/hanging": func(context.Context) error { <-hang; return nil },
	} {
		err := paths.WalkWithin(t.Context(), path, time.Millisecond, walk)
		if !errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want that %s is unavailable and no deadline of the caller's", err, path)
		}
	}
	if err := <-ended; !strings.Contains(err.Error(), "1ms") {
		t.Errorf("the walk ended by %v, want its limit", err)
	}
}
