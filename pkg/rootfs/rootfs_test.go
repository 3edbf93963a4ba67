// SPDX-License-Identifier: Apache-2.0

package rootfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

func TestLayerCounts(t *testing.T) {
	s := open(t)
	many := ocilayout.Image{}
	for i := range 120 { // more than fits into a page of mount options
		many.Layers = append(many.Layers, ocilayout.Layer{file("top", strings.Repeat("x", i+1))})
	}
	for name, c := range map[string]struct {
		img  ocilayout.Image
		want int // size of "top"; 0: no such file
	}{
		"none": {ocilayout.Image{}, 0},
		"one":  {ocilayout.Image{Layers: many.Layers[:1]}, 1},
		"two":  {ocilayout.Image{Layers: many.Layers[:2]}, 2},
		"120":  {many, 120},
	} {
		id := s.images.Load(t, "example.org/"+name+":v1", c.img)
		for _, mapped := range []bool{false, true} {
			r, key := rootfs.From{ImageID: id}, name
			if mapped {
				r.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000000, Size: 65536}}
				r.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000000, Size: 65536}}
				key += "-mapped"
			}
			root := s.images.Mount(t, key, r)
			if fi, err := os.Stat(filepath.Join(root, "top")); c.want > 0 && (err != nil || fi.Size() != int64(c.want)) {
				t.Errorf("%s: %v", key, err)
			}
			want := sys.OwnerMode{Mode: 0o755}
			if mapped {
				want.UID, want.GID = 1000000, 2000000
			}
			if got := imagestore.Owner(t, root); got != want {
				t.Errorf("%s: root directory is %+v, want %+v", key, got, want)
			}
			if c.want > 0 {
				want.Mode = 0o644
				if got := imagestore.Owner(t, filepath.Join(root, "top")); got != want {
					t.Errorf("%s: file is %+v, want %+v", key, got, want)
				}
			}
			if err := os.WriteFile(filepath.Join(root, "w"), []byte("w"), 0o600); err != nil {
				t.Errorf("%s: %v", key, err)
			}
			volume := filepath.Join(filepath.Dir(root), "volume")
			if err := s.MountVolume(t.Context(), key+"-vol-0", r, volume); err != nil {
				t.Fatal(err)
			}
			if err := s.MountVolume(t.Context(), key+"-vol-0", r, volume); err != nil {
				t.Errorf("%s: mounted twice: %v", key, err)
			}
			if err := os.WriteFile(filepath.Join(volume, "w"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: write to a volume: %v", key, err)
			}
			if c.want > 0 {
				if got := imagestore.Owner(t, filepath.Join(volume, "top")); got != want {
					t.Errorf("%s: file in volume is %+v, want %+v", key, got, want)
				}
			}
			for range 2 {
				if err := s.Remove(t.Context(), key+"-vol-0", volume); err != nil {
					t.Error(err)
				}
			}
		}
	}
	mounts := imagestore.Read(t, "/proc/self/mountinfo")
	if strings.Contains(mounts, "/idmap ") {
		t.Error("shifted layers are still mounted")
	}
}

func TestIsIdempotent(t *testing.T) {
	s := open(t)
	one, two := s.images.Load(t, "example.org/one:v1", simple("one")), s.images.Load(t, "example.org/two:v1", simple("two"))
	r := rootfs.From{ImageID: one}
	root := s.images.Mount(t, "key", r)
	if err := os.WriteFile(filepath.Join(root, "w"), []byte("w"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Prepare(t.Context(), "key", r); err != nil {
			t.Error(err)
		}
		if err := s.Mount(t.Context(), "key", root); err != nil {
			t.Error(err)
		}
	}
	if got := strings.Count(imagestore.Read(t, "/proc/self/mountinfo"), " "+root+" "); got != 1 {
		t.Errorf("mounted %d times", got)
	}
	if imagestore.Read(t, filepath.Join(root, "w")) != "w" {
		t.Error("what was written is gone")
	}
	if err := s.Prepare(t.Context(), "key", rootfs.From{ImageID: two}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another image: %v", err)
	}
	for range 2 {
		if err := s.Remove(t.Context(), "key", root); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mount point: %v", err)
	}
	if err := s.Mount(t.Context(), "key", root); !errdefs.IsNotFound(err) {
		t.Errorf("mount after removal: %v", err)
	}
	for _, key := range []string{"", "../x", "a/b", ".", "..", ".hidden"} {
		if err := s.Prepare(t.Context(), key, r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("key %q: %v", key, err)
		}
	}
	if err := s.Prepare(t.Context(), "none", rootfs.From{ImageID: "sha256:" + strings.Repeat("0", 64)}); !errdefs.IsNotFound(err) {
		t.Errorf("no image: %v", err)
	}
	if keys, err := s.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("keys %q, %v", keys, err)
	}
}

// TestAfterCrash: the kernel marks the work directory of a volatile overlay and refuses it afterwards.
func TestAfterCrash(t *testing.T) {
	s := open(t)
	root := s.images.Mount(t, "key", rootfs.From{ImageID: s.images.Load(t, "example.org/one:v1", simple("one"))})
	mark := filepath.Join(s.images.Root, "rootfs/key/work/work/incompat/volatile")
	if _, err := os.Stat(mark); err != nil {
		t.Fatalf("the mount is not volatile: %v", err)
	}
	// A clean unmount leaves the mark as a crash does.
	if err := sys.Unmount(root); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(mark, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount(t.Context(), "key", root); err != nil {
		t.Error(err)
	}
}

func TestBusy(t *testing.T) {
	s := open(t)
	root := s.images.Mount(t, "key", rootfs.From{ImageID: s.images.Load(t, "example.org/one:v1", simple("one"))})
	f, err := os.Open(filepath.Join(root, "etc/name"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Remove(t.Context(), "key", root); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := f.Read(b); err != nil || string(b) != "one" {
		t.Errorf("open file: %q, %v", b, err)
	}
}

func TestUsage(t *testing.T) {
	s := open(t)
	before, err := s.FsInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := s.images.Load(t, "example.org/big:v1", big(2<<20))
	loaded, err := s.FsInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := loaded.Image.Bytes - before.Image.Bytes; got < 4<<20 || got > 5<<20 || loaded.Image.Inodes <= before.Image.Inodes {
		t.Errorf("an image of 2 MiB, not compressible, takes %d bytes, %+v", got, loaded.Image)
	}
	if loaded.Image.Mountpoint != loaded.Container.Mountpoint || loaded.Image.Mountpoint != s.images.Root {
		t.Errorf("mount points %q %q", loaded.Image.Mountpoint, loaded.Container.Mountpoint)
	}
	if img, err := s.images.Get(t.Context(), id); err != nil || img.Size < 4<<20 || img.Size > 5<<20 {
		t.Errorf("image size %d, %v", img.Size, err)
	}
	root := s.images.Mount(t, "key", rootfs.From{ImageID: id})
	if err := os.WriteFile(filepath.Join(root, "w"), noise(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := s.Usage(t.Context(), "key")
	if err != nil || u.Bytes < 1<<20 || u.Bytes > 1<<20+64<<10 || u.Inodes != 2 {
		t.Errorf("usage %+v, %v", u, err)
	}
	used, err := s.FsInfo(t.Context())
	if err != nil || used.Container.Usage != u {
		t.Errorf("container filesystem %+v, %v", used.Container, err)
	}
	if _, err := s.Usage(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("usage of nothing: %v", err)
	}
}

// TestRemoveImageInUse: a running container keeps its layers, and the space comes back with it.
func TestRemoveImageInUse(t *testing.T) {
	s := open(t)
	empty, err := s.FsInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two := big(1 << 20)
	two.Layers = append(two.Layers, ocilayout.Layer{file("top", "top")})
	id := s.images.Load(t, "example.org/used:v1", two)
	roots := []string{s.images.Mount(t, "a", rootfs.From{ImageID: id}), s.images.Mount(t, "b", rootfs.From{ImageID: id})}
	if err := s.images.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.images.Get(t.Context(), id); !errdefs.IsNotFound(err) {
		t.Fatalf("image: %v", err)
	}
	if err := s.Remove(t.Context(), "a", roots[0]); err != nil {
		t.Fatal(err)
	}
	// Mounted anew, so that nothing comes from a cache.
	if err := sys.Unmount(roots[1]); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount(t.Context(), "b", roots[1]); err != nil {
		t.Fatal(err)
	}
	if imagestore.Read(t, filepath.Join(roots[1], "noise")) != string(noise(1<<20)) || imagestore.Read(t, filepath.Join(roots[1], "top")) != "top" {
		t.Error("layers are gone under a container")
	}
	held, err := s.FsInfo(t.Context())
	if err != nil || held.Image.Bytes < empty.Image.Bytes+1<<20 || held.Image.Bytes > empty.Image.Bytes+3<<19 {
		t.Errorf("layers without blobs take %d bytes, %v", held.Image.Bytes, err)
	}
	if err := s.Remove(t.Context(), "b", roots[1]); err != nil {
		t.Fatal(err)
	}
	after, err := s.FsInfo(t.Context())
	if err != nil || after.Image.Usage != empty.Image.Usage {
		t.Errorf("after the last user: %+v, %v", after.Image, err)
	}
	var left []string
	for _, pattern := range []string{"content/blobs/sha256/*", "layers/snapshots/*", "rootfs/*"} {
		m, err := filepath.Glob(filepath.Join(s.images.Root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = slices.Concat(left, m)
	}
	if len(left) > 0 {
		t.Errorf("left on disk: %q", left)
	}
}

// TestLabels: every mount carries the SELinux context that it is to have, however few layers there are. The context is
// taken out again, as this kernel may not have SELinux.
func TestLabels(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	s := open(t)
	var labelled int
	rootfs.OnMount(s.Service, func(options []string) []string {
		return slices.DeleteFunc(options, func(o string) bool {
			if o != `context="`+label+`"` {
				return false
			}
			labelled++
			return true
		})
	})
	top := []ocilayout.Layer{{file("top", "top")}, {file("more", "more")}}
	for n := range 3 {
		for _, mapped := range []bool{false, true} {
			r := rootfs.From{ImageID: s.images.Load(t, fmt.Sprintf("example.org/%d:v1", n), ocilayout.Image{Layers: top[:n]}), MountLabel: label}
			key := fmt.Sprintf("%d-%t", n, mapped)
			want := sys.OwnerMode{Mode: 0o755}
			if mapped {
				r.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000000, Size: 65536}}
				r.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000000, Size: 65536}}
				want.UID, want.GID = 1000000, 2000000
			}
			labelled = 0
			root := s.images.Mount(t, key, r)
			volume := filepath.Join(filepath.Dir(root), "volume")
			if err := s.MountVolume(t.Context(), key+"-vol", r, volume); err != nil {
				t.Fatal(err)
			}
			if labelled != 2 {
				t.Errorf("%s: %d of 2 mounts have the label", key, labelled)
			}
			for _, dir := range []string{root, volume} {
				if got := imagestore.Owner(t, dir); got != want {
					t.Errorf("%s: %s is %+v, want %+v", key, dir, got, want)
				}
				if entries, err := os.ReadDir(dir); err != nil || len(entries) != n {
					t.Errorf("%s: %s has %v, %v", key, dir, entries, err)
				}
			}
			if err := os.WriteFile(filepath.Join(root, "w"), nil, 0o600); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(filepath.Join(volume, "w"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: write to a volume: %v", key, err)
			}
			if err := s.Remove(t.Context(), key+"-vol", volume); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestOwnersThatCannotBeShifted: a user namespace needs a file system that can show files with other owners. proc never can,
// tmpfs since Linux 6.3.
func TestOwnersThatCannotBeShifted(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/app:v1", simple("app"))
	other := filepath.Join(s.images.SnapshotDir(), "other")
	if err := errors.Join(os.Mkdir(other, 0o700), syscall.Mount("proc", other, "proc", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(syscall.Unmount(other, 0), os.Remove(other)); err != nil {
			t.Error(err)
		}
	})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000000, Size: 65536}}
	if err := s.Prepare(t.Context(), "app", rootfs.From{ImageID: id, UIDMappings: ids, GIDMappings: ids}); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "root")
	err := s.Mount(t.Context(), "app", target)
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "user namespace") {
		t.Errorf("mount of a root: %v", err)
	}
	if err := s.Remove(t.Context(), "app", target); err != nil {
		t.Error(err)
	}
}

// TestUnreadableRecord: a record that can't be read for now says nothing about what layers are in use, so none goes.
func TestUnreadableRecord(t *testing.T) {
	s := open(t)
	id := s.images.Load(t, "example.org/used:v1", simple("used"))
	root := s.images.Mount(t, "key", rootfs.From{ImageID: id})
	record := filepath.Join(s.images.Root, "rootfs/key/record.json")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Rename(record, record+".away"))
	must(os.Mkdir(record, 0o700)) // reading it gives EISDIR, where a bad disk gives EIO
	if err := s.images.Remove(t.Context(), id); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("remove the image: %v", err)
	}
	if err := s.Prepare(t.Context(), "key", rootfs.From{ImageID: id}); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("prepare again: %v", err)
	}
	must(os.Remove(record))
	must(os.Rename(record+".away", record))
	must(sys.Unmount(root)) // so that nothing comes from a cache
	must(s.Mount(t.Context(), "key", root))
	if got := imagestore.Read(t, filepath.Join(root, "etc/name")); got != "used" {
		t.Errorf("file of the image has %q", got)
	}
	must(s.Remove(t.Context(), "key", root))
	if left, err := filepath.Glob(filepath.Join(s.images.Root, "layers/snapshots/*")); err != nil || len(left) > 0 {
		t.Errorf("after the last user: %q, %v", left, err)
	}
}

// BenchmarkRootFS is what a container's start and end cost here, without what runs in it.
func BenchmarkRootFS(b *testing.B) {
	s := open(b)
	id := s.images.Load(b, "example.org/one:v1", simple("one"))
	target := filepath.Join(b.TempDir(), "c", "rootfs")
	for b.Loop() {
		if err := s.Prepare(b.Context(), "key", rootfs.From{ImageID: id}); err != nil {
			b.Fatal(err)
		}
		if err := s.Mount(b.Context(), "key", target); err != nil {
			b.Fatal(err)
		}
		if err := s.Remove(b.Context(), "key", target); err != nil {
			b.Fatal(err)
		}
	}
}
