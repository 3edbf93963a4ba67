// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

const helperRoot = "IMAGE_TEST_HELPER_ROOT"

// TestMain lets the test binary stand in for a daemon that can be killed: it pulls one image and waits.
func TestMain(m *testing.M) {
	root := os.Getenv(helperRoot)
	if root == "" {
		os.Exit(m.Run())
	}
	s, err := image.Open(context.Background(), image.Options{Root: root, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err == nil {
		_, err = s.Pull(context.Background(), image.Pull{Ref: os.Args[1]})
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestKillMidPull(t *testing.T) {
	imagestore.NeedRoot(t)
	r := newRegistry(t)
	in := big(3 << 20)
	in.Layers = append(in.Layers, ocilayout.Layer{file("second", "second")}, ocilayout.Layer{ocilayout.File{Path: "third", Content: noise(5 << 20)[2<<20:]}})
	b, err := in.Build()
	if err != nil {
		t.Fatal(err)
	}
	r.pushBuilt(t, "test/img:v1", b)
	root := filepath.Join(t.TempDir(), "images")
	last := b.Layers[2].Digest
	half := make(chan struct{}, 100)
	r.inject(onBlob(last, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", strconv.Itoa(len(b.Blobs[last])))
		_, _ = w.Write(b.Blobs[last][:2<<20])
		_ = http.NewResponseController(w).Flush()
		half <- struct{}{}
		<-q.Context().Done()
	}))
	ref := r.host() + "/test/img:v1"
	daemon := exec.CommandContext(t.Context(), "/proc/self/exe", ref)
	daemon.Env = append(os.Environ(), helperRoot+"="+root)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	<-half
	await.Until(t, 10*time.Second, "the first layers are unpacked", func() bool {
		m, err := filepath.Glob(filepath.Join(root, "layers/snapshots/*/fs/noise"))
		part, err2 := filepath.Glob(filepath.Join(root, "content/ingest/*/data"))
		if err != nil || err2 != nil || len(m) == 0 || len(part) != 1 {
			return false
		}
		fi, err := os.Stat(part[0])
		return err == nil && fi.Size() >= 1<<20
	})
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()

	s := openAt(t, root)
	if imgs, err := s.List(t.Context()); err != nil || len(imgs) != 0 {
		t.Errorf("images after the crash: %v, %v", imgs, err)
	}
	if got, err := image.Expiries(t.Context(), s.Service); err != nil || len(got) != 1 || got[0] == "" {
		t.Errorf("leases of the dead pull end at %q, %v", got, err)
	}
	r.inject(nil)
	id := s.pull(t, ref)
	fetched := 0
	for _, q := range r.requests() {
		if strings.HasPrefix(q, "GET") && strings.Contains(q, "/blobs/") {
			fetched++
			if !strings.Contains(q, last.String()) || !strings.Contains(q, "bytes=") {
				t.Errorf("fetched again: %s", q)
			}
		}
	}
	if fetched != 1 {
		t.Errorf("%d blobs fetched after the crash, want 1", fetched)
	}
	dir := s.Mount(t, "key", rootfs.From{ImageID: id})
	if imagestore.Read(t, filepath.Join(dir, "noise")) != string(noise(3<<20)) || imagestore.Read(t, filepath.Join(dir, "third")) != string(noise(5 << 20)[2<<20:]) {
		t.Error("content differs")
	}
	if err := s.RootFS.Remove(t.Context(), "key", dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if m, err := filepath.Glob(filepath.Join(root, "layers/snapshots/*")); err != nil || len(m) > 0 {
		t.Errorf("layers left: %q, %v", m, err)
	}
}

// TestCleanUp: what no record names goes while the store serves, a store set aside before the boot too; what an image
// has stays. The directory of a layer whose record a crash prevented is not in the way of the next layer, which gets its
// number.
func TestCleanUp(t *testing.T) {
	imagestore.NeedRoot(t)
	root := filepath.Join(t.TempDir(), "images")
	layers, aside := filepath.Join(root, "layers/snapshots"), filepath.Join(root, "damaged-of-another-boot/blobs")
	t.Run("first", func(t *testing.T) {
		openAt(t, root).Load(t, "example.org/one:v1", simple("one"))
	})
	used := len(names(t, layers))
	if err := os.MkdirAll(aside, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 10 { // with the numbers that come next among them
		dir := filepath.Join(layers, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
			continue
		}
		if err := os.Mkdir(filepath.Join(dir, "left"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := openAt(t, root)
	s.Load(t, "example.org/two:v1", simple("two"))
	if err := s.CleanUp(t.Context()); err != nil {
		t.Error(err)
	}
	if left := names(t, layers); len(left) != 2*used {
		t.Errorf("layers %v, want %d", left, 2*used)
	}
	if _, err := os.Lstat(filepath.Dir(aside)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a store set aside before the boot: %v", err)
	}
	imgs, err := s.List(t.Context())
	if err != nil || len(imgs) != 2 {
		t.Fatalf("images %v, %v", imgs, err)
	}
	for _, img := range imgs {
		if dir := s.Mount(t, "key-"+img.ID[len(img.ID)-8:], rootfs.From{ImageID: img.ID}); len(names(t, dir)) == 0 {
			t.Error("the image's layer is empty")
		}
	}
}

func names(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestSecondDaemon(t *testing.T) {
	s := open(t)
	_, err := image.Open(t.Context(), image.Options{Root: s.Root})
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error %v", err)
	}
	if _, err := image.Open(t.Context(), image.Options{Root: "relative"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative root: %v", err)
	}
}

func TestReopen(t *testing.T) {
	imagestore.NeedRoot(t)
	root := filepath.Join(t.TempDir(), "images")
	var before []image.Image
	t.Run("first", func(t *testing.T) {
		s := openAt(t, root)
		s.Load(t, "example.org/one:v1", simple("one"))
		var err error
		if before, err = s.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	s := openAt(t, root)
	after, err := s.List(t.Context())
	if err != nil || fmt.Sprintf("%+v", after) != fmt.Sprintf("%+v", before) {
		t.Errorf("%+v, want %+v, %v", after, before, err)
	}
}

// TestDamagedStore: whatever is wrong with the databases, the store opens, says so, and the image comes back by a pull
// that downloads nothing but what is asked for by name.
func TestDamagedStore(t *testing.T) {
	imagestore.NeedRoot(t)
	r := newRegistry(t)
	r.push(t, "test/img:v1", simple("one"))
	ref := r.host() + "/test/img:v1"
	truncate := func(n int64) func(string) error { return func(f string) error { return os.Truncate(f, n) } }
	scribble := func(at int64, n int) func(string) error {
		return func(name string) error {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(noise(n), at)
			return errors.Join(err, f.Close())
		}
	}
	for what, damage := range map[string]func(string) error{
		"missing":         os.Remove,
		"empty":           truncate(0),
		"half a page":     truncate(2000),
		"two pages":       truncate(8192),
		"truncated":       truncate(20000),
		"text":            func(f string) error { return os.WriteFile(f, []byte(strings.Repeat("not a database\n", 9999)), 0o600) },
		"bad meta pages":  scribble(0, 8192),
		"bad pages":       scribble(8192, 1<<16),
		"bad third page":  scribble(8192, 4096),
		"bad later pages": scribble(16384, 1<<15),
	} {
		for _, file := range []string{"metadata.db", "layers/metadata.db"} {
			t.Run(what+" "+filepath.Dir(file), func(t *testing.T) {
				root := filepath.Join(t.TempDir(), "images")
				t.Run("fill", func(t *testing.T) { openAt(t, root).pull(t, ref) })
				if err := damage(filepath.Join(root, file)); err != nil {
					t.Fatal(err)
				}
				s := openAt(t, root)
				imgs, err := s.List(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if len(imgs) == 0 && !strings.Contains(s.Log.String(), "set aside") {
					t.Errorf("not a word about it: %s", s.Log)
				}
				r.inject(nil)
				id := s.pull(t, ref)
				for _, q := range r.requests() {
					if strings.HasPrefix(q, "GET") && strings.Contains(q, "/blobs/") {
						t.Errorf("downloaded again: %s", q)
					}
				}
				if got := imagestore.Read(t, filepath.Join(s.Mount(t, "key", rootfs.From{ImageID: id}), "etc/name")); got != "one" {
					t.Errorf("content %q", got)
				}
			})
		}
	}
}

// TestDamagedBlob: an image whose manifest or config is damaged on disk is not there, and a pull brings it back.
func TestDamagedBlob(t *testing.T) {
	imagestore.NeedRoot(t)
	r := newRegistry(t)
	b, err := simple("one").Build()
	if err != nil {
		t.Fatal(err)
	}
	r.pushBuilt(t, "test/img:v1", b)
	r.push(t, "test/other:v1", simple("other"))
	ref := r.host() + "/test/img:v1"
	for name, damage := range map[string]func(string) error{
		"gone": os.Remove,
		"torn": func(f string) error { return os.Truncate(f, 10) },
		"changed": func(f string) error {
			raw, err := os.ReadFile(f)
			return errors.Join(err, os.WriteFile(f, []byte(strings.Replace(string(raw), "linux", "minix", 1)), 0o600))
		},
	} {
		for _, d := range []string{b.Manifest.Digest.Encoded(), b.Config.Digest.Encoded()} {
			t.Run(name+" "+d[:8], func(t *testing.T) {
				root := filepath.Join(t.TempDir(), "images")
				t.Run("fill", func(t *testing.T) {
					s := openAt(t, root)
					s.pull(t, ref)
					s.pull(t, r.host()+"/test/other:v1")
				})
				if err := damage(filepath.Join(root, "content/blobs/sha256", d)); err != nil {
					t.Fatal(err)
				}
				s := openAt(t, root)
				if _, err := s.List(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.get(t, r.host()+"/test/other:v1")
				s.pull(t, ref)
				if img := s.get(t, ref); img.ID != b.ID() || img.User != "1000:1000" {
					t.Errorf("image %+v", img)
				}
				if name != "changed" {
					if err := s.Remove(t.Context(), ref); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

func TestPreload(t *testing.T) {
	imagestore.NeedRoot(t)
	base := t.TempDir()
	root, dir, layouts := filepath.Join(base, "images"), filepath.Join(base, "preload"), filepath.Join(base, "layouts")
	write := func(dir, ref string, img ocilayout.Image) {
		t.Helper()
		if _, err := ocilayout.Write(dir, ref, img); err != nil {
			t.Fatal(err)
		}
	}
	archive := func(name, layout string) {
		t.Helper()
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(ocilayout.Tar(layout, f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "layout"), "example.org/a:v1", simple("a"))
	write(filepath.Join(dir, "layout"), "example.org/b:v1", simple("b"))
	write(filepath.Join(dir, "bad"), "example.org/bad:v1", simple("bad"))
	write(filepath.Join(dir, "nameless"), "", simple("nameless"))
	write(filepath.Join(layouts, "c"), "example.org/c:v1", simple("c"))
	write(filepath.Join(layouts, "torn"), "example.org/torn:v1", simple("torn"))
	blobs, err := filepath.Glob(filepath.Join(dir, "bad/blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range blobs {
		if fi, err := os.Stat(f); err != nil || fi.Size() < 200 { // the layers: same size, other content
			if err := os.WriteFile(f, make([]byte, fi.Size()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	archive("c.tar", filepath.Join(layouts, "c"))
	archive("torn.tar", filepath.Join(layouts, "torn"))
	if err := os.Truncate(filepath.Join(dir, "torn.tar"), 3000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker.tar"), dockerArchive(t, "dockerish:v7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("not an image"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"docker.io/library/dockerish:v7", "example.org/a:v1", "example.org/b:v1", "example.org/c:v1"}
	check := func(s store) {
		t.Helper()
		imgs, err := s.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var tags []string
		for _, img := range imgs {
			tags = append(tags, img.RepoTags...)
			if !img.Pinned {
				t.Errorf("not pinned: %+v", img)
			}
		}
		slices.Sort(tags)
		if !slices.Equal(tags, want) || len(imgs) != len(want)+1 {
			t.Errorf("tags %q, %d images; log: %s", tags, len(imgs), s.Log)
		}
	}
	t.Run("first start", func(t *testing.T) {
		s := openAt(t, root)
		if err := s.Preload(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		check(s)
		for _, bad := range []string{"torn.tar", "preload/bad"} {
			if !strings.Contains(s.Log.String(), bad) {
				t.Errorf("nothing about %s in %s", bad, s.Log)
			}
		}
		if got := imagestore.Read(t, filepath.Join(s.Mount(t, "key", rootfs.From{ImageID: s.get(t, "dockerish:v7").ID}), "etc/name")); got != "dockerish" {
			t.Errorf("content %q", got)
		}
	})
	t.Run("second start", func(t *testing.T) {
		s := openAt(t, root)
		start := time.Now()
		if err := s.Preload(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		t.Logf("nothing new: %s", time.Since(start))
		check(s)
		if strings.Contains(s.Log.String(), "preloaded images") {
			t.Errorf("imported again: %s", s.Log)
		}
		if err := s.Remove(t.Context(), "example.org/c:v1"); err != nil {
			t.Error(err)
		}
		if err := s.Preload(t.Context(), filepath.Join(base, "missing")); err != nil {
			t.Errorf("no directory: %v", err)
		}
	})
}
