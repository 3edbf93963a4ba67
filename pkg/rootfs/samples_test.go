// SPDX-License-Identifier: Apache-2.0

package rootfs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
	"github.com/cri-shim/cri-shim/test/await"
)

// nest makes directories inside each other by relative paths, the way a container makes a tree that no path can name.
func nest(t testing.TB, dir string, depth int) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	for range depth {
		if err == nil {
			err = root.Mkdir("d", 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		next, nerr := root.OpenRoot("d")
		_ = root.Close()
		root, err = next, nerr
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = root.Close()
}

// writable prepares a writable layer and returns its directory.
func (s store) writable(t testing.TB, key, id string) string {
	t.Helper()
	if err := s.Prepare(t.Context(), key, rootfs.From{ImageID: id}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(context.Background(), key, ""); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(s.images.Root, "rootfs", key, "upper")
}

func (s store) fsInfo(t testing.TB) rootfs.FsInfo {
	t.Helper()
	info, err := s.FsInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestOneContainerBlindsNobody: a tree that no path can name, and a layer that is none, take no other's figure along.
func TestOneContainerBlindsNobody(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/a:v1", simple("a"))
	nest(t, s.writable(t, "deep", id), 5000)
	good := s.writable(t, "good", id)
	if err := os.WriteFile(filepath.Join(good, "file"), noise(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := s.writable(t, "bad", id)
	if err := os.RemoveAll(bad); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await.Until(t, 10*time.Second, "deep and good layers are counted", func() bool {
		got := s.fsInfo(t).Container
		return got.Inodes == 5001+2 && got.Bytes > 1<<20
	})
	for range 3 {
		rootfs.AgeSamples(s.Service)
		s.fsInfo(t)
	}
	if n := strings.Count(s.images.Log.String(), "disk use of a directory is incomplete"); n != 1 {
		t.Errorf("said %d times that a layer can't be measured", n)
	}
	if err := s.Remove(t.Context(), "deep", ""); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.images.Root, "rootfs")); err != nil || len(left) != 2 {
		t.Errorf("left %v, %v", left, err)
	}
	if got := s.fsInfo(t).Container; got.Inodes != 2 {
		t.Errorf("without the deep layer: %+v", got)
	}
}

// TestSlowWalksHoldNothingUp: answers have the last known figures while walks wait or take long.
func TestSlowWalksHoldNothingUp(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/a:v1", simple("a"))
	known, cold := s.writable(t, "known", id), s.writable(t, "cold", id)
	for _, dir := range []string{known, cold} {
		if err := os.WriteFile(filepath.Join(dir, "file"), noise(1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before, err := s.Usage(t.Context(), "known")
	if err != nil {
		t.Fatal(err)
	}
	rootfs.AgeSamples(s.Service)
	release := rootfs.OccupyWalkers(s.Service)
	patient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := s.Usage(patient, "known"); err != nil || got != before {
		t.Errorf("known layer: %+v, %v", got, err)
	}
	if _, err := s.Usage(patient, "cold"); !errdefs.IsUnavailable(err) {
		t.Errorf("cold layer: %v", err)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if info, err := s.FsInfo(t.Context()); err != nil || info.Container.Usage != before {
				t.Errorf("file systems: %+v, %v", info.Container, err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	release()
	await.Until(t, 10*time.Second, "the cold layer is counted, although all who asked are gone", func() bool {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		got, err := s.Usage(ended, "cold")
		return err == nil && got.Bytes == before.Bytes
	})
}

// TestHangingWalksBlockNobody: directories whose filesystem never answers take no other's figure along, and neither the
// removal of a layer nor the end of the store waits for them.
func TestHangingWalksBlockNobody(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/a:v1", simple("a"))
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	rootfs.Walk(s.Service, func(ctx context.Context, path string, sofar func(tree.Usage)) (tree.Usage, error) {
		if strings.Contains(path, "/dead") {
			<-release // nothing ends a wait for the kernel
		}
		return tree.DiskUsage(ctx, path, sofar)
	})
	for _, key := range []string{"dead1", "dead2", "dead3", "good"} {
		s.writable(t, key, id)
		asked, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, _ = s.Usage(asked, key) // begins the walk
		cancel()
	}
	await.Until(t, 10*time.Second, "the good layer is counted", func() bool {
		got, err := s.Usage(t.Context(), "good")
		return err == nil && got.Inodes == 1 && s.fsInfo(t).Container.Inodes == 1
	})
	if err := s.Remove(t.Context(), "dead1", ""); err != nil {
		t.Error(err)
	}
}

// TestWalksTakeTurns: small directories do not wait for the end of large ones.
func TestWalksTakeTurns(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/a:v1", simple("a"))
	var atWork atomic.Int32
	rootfs.Walk(s.Service, func(ctx context.Context, path string, sofar func(tree.Usage)) (tree.Usage, error) {
		for strings.Contains(path, "/large") && ctx.Err() == nil {
			if atWork.Add(1) > 2 {
				t.Error("more than two walks side by side")
			}
			time.Sleep(time.Millisecond)
			atWork.Add(-1)
			sofar(tree.Usage{Bytes: 1, Inodes: 1})
		}
		return tree.DiskUsage(ctx, path, sofar)
	})
	for _, key := range []string{"large1", "large2", "large3", "large4", "small"} {
		s.writable(t, key, id)
		asked, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, _ = s.Usage(asked, key) // begins the walk
		cancel()
	}
	await.Until(t, 10*time.Second, "the small layer is counted", func() bool {
		got, err := s.Usage(t.Context(), "small")
		return err == nil && got.Inodes == 1
	})
}

// TestDeclaredVolumesFillTheDisk: they are in the node's figure and not in the container's.
func TestDeclaredVolumesFillTheDisk(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/a:v1", simple("a"))
	upper := s.writable(t, "key", id)
	before := s.fsInfo(t).Container
	volume := filepath.Join(filepath.Dir(upper), "volumes", "0")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "file"), noise(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	await.Until(t, 10*time.Second, "the volume is counted", func() bool {
		rootfs.AgeSamples(s.Service)
		got := s.fsInfo(t).Container
		return got.Bytes >= before.Bytes+1<<20 && got.Inodes == before.Inodes+3
	})
	if got, err := s.Usage(t.Context(), "key"); err != nil || got != before.Usage {
		t.Errorf("the container: %+v, %v; before %+v", got, err, before)
	}
}

// TestUnreadableDirectoryShrinks: a figure that lacks something follows what can be read.
func TestUnreadableDirectoryShrinks(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/a:v1", simple("a"))
	s.writable(t, "key", id)
	uses := []tree.Usage{{Bytes: 5000, Inodes: 5}, {Bytes: 4000, Inodes: 4}}
	for i, want := range uses {
		rootfs.Walk(s.Service, func(context.Context, string, func(tree.Usage)) (tree.Usage, error) { return want, unix.EIO })
		rootfs.AgeSamples(s.Service)
		if got, err := s.Usage(t.Context(), "key"); err != nil || got != want {
			t.Errorf("%d: %+v, %v", i, got, err)
		}
	}
}

// TestRemovalEndsTheWalk, and a store closes although walks wait.
func TestRemovalEndsTheWalk(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/a:v1", simple("a"))
	s.writable(t, "key", id)
	s.writable(t, "other", id)
	release := rootfs.OccupyWalkers(s.Service)
	t.Cleanup(release)
	asked := make(chan error)
	go func() {
		_, err := s.Usage(t.Context(), "key")
		asked <- err
	}()
	ended, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _ = s.Usage(ended, "other") // leaves its walk waiting for Close
	if err := s.Remove(t.Context(), "key", ""); err != nil {
		t.Error(err)
	}
	if err := <-asked; !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) {
		t.Errorf("error %v", err)
	}
}
