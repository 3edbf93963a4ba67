// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

type middleware = func(next http.Handler) http.Handler

// noise doesn't compress.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(b)
	return b
}

func big(n int) ocilayout.Image {
	return ocilayout.Image{Layers: []ocilayout.Layer{{ocilayout.File{Path: "noise", Content: noise(n)}}}}
}

// onBlob answers requests for one blob itself.
func onBlob(d digest.Digest, h func(w http.ResponseWriter, r *http.Request, next http.Handler)) middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+d.String()) {
				h(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func always(status int, header ...string) middleware {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		})
	}
}

// cut sends n bytes of what it should and drops the connection.
func cut(w http.ResponseWriter, blob []byte, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
	_, _ = w.Write(blob[:n])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestPullErrors(t *testing.T) {
	r := newRegistry(t)
	built, err := big(1 << 20).Build()
	if err != nil {
		t.Fatal(err)
	}
	layer, blob := built.Layers[0].Digest, built.Blobs[built.Layers[0].Digest]
	r.pushBuilt(t, "test/img:v1", built)
	serve := func(b []byte) middleware {
		return onBlob(layer, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = w.Write(b) })
	}
	for _, c := range []struct {
		name  string
		fault middleware
		class error
		text  string
	}{
		{"401", always(401, "WWW-Authenticate", `Basic realm="x"`), errdefs.ErrUnauthenticated, "credentials"},
		{"403", always(403), errdefs.ErrPermissionDenied, "denies"},
		{"404", always(404), errdefs.ErrNotFound, "not found"},
		{"429", always(429), crierrors.ErrRegistryUnavailable, "429"},
		{"500", always(500), crierrors.ErrRegistryUnavailable, "500"},
		{"503", always(503), crierrors.ErrRegistryUnavailable, "503"},
		{"418", always(418), nil, "418"},
		{"truncated", serve(blob[:len(blob)/2]), crierrors.ErrRegistryUnavailable, "short read"},
		{"too long", serve(append(bytes.Clone(blob), 0)), errdefs.ErrDataLoss, layer.String()},
		{"other content", serve(make([]byte, len(blob))), errdefs.ErrDataLoss, layer.String()},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			ref := r.host() + "/test/img:v1"
			r.inject(c.fault)
			defer r.inject(nil)
			_, err := s.Pull(t.Context(), image.Pull{Ref: ref})
			if err == nil {
				t.Fatal("pull succeeded")
			}
			if !strings.Contains(err.Error(), ref) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("text %q", err)
			}
			if c.class != nil && !errors.Is(err, c.class) {
				t.Errorf("class of %v is not %v", err, c.class)
			}
			if c.class == nil || c.class == crierrors.ErrRegistryUnavailable {
				if errdefs.IsUnavailable(err) || errdefs.IsNotFound(err) || errdefs.IsUnknown(err) || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v has an errdefs class", err)
				}
			}
			if c.class == crierrors.ErrRegistryUnavailable && !strings.HasPrefix(err.Error(), crierrors.ErrRegistryUnavailable.Error()) {
				t.Errorf("text %q", err)
			}
			if imgs, err := s.List(t.Context()); err != nil || len(imgs) > 0 {
				t.Errorf("images %v, %v", imgs, err)
			}
			r.inject(nil)
			id := s.pull(t, ref) // whatever was left doesn't stand in the way
			if got := imagestore.Read(t, filepath.Join(s.Mount(t, "after", rootfs.From{ImageID: id}), "noise")); got != string(noise(1<<20)) {
				t.Error("content differs after the registry is well again")
			}
		})
	}
}

// TestPullAfterFailureAsksAnew: who pulls after a failed pull was answered must not be given that answer again.
func TestPullAfterFailureAsksAnew(t *testing.T) {
	r, s := newRegistry(t), open(t)
	r.push(t, "test/img:v1", simple("again"))
	for range 100 {
		r.inject(always(503))
		if _, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/img:v1"}); err == nil {
			t.Fatal("pull succeeded")
		}
		r.inject(nil)
		s.pull(t, r.host()+"/test/img:v1")
	}
}

// TestPanicEndsOneImageAlone: what a library panics at is neither the daemon's end nor that of other images.
func TestPanicEndsOneImageAlone(t *testing.T) {
	r, s := newRegistry(t), open(t)
	evil := r.host() + "/test/evil:v1"
	r.push(t, "test/evil:v1", simple("evil"))
	image.PanicAt(s.Service, evil)
	_, err := s.Pull(t.Context(), image.Pull{Ref: evil})
	if !errors.Is(err, errdefs.ErrInternal) || !strings.Contains(err.Error(), "index out of range") {
		t.Errorf("pull: %v", err)
	}
	dir, layout := t.TempDir(), t.TempDir()
	if _, err := ocilayout.Write(layout, evil, simple("evil")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "evil.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ocilayout.Tar(layout, f), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := ocilayout.Write(filepath.Join(dir, "good"), "example.org/good:v1", simple("good")); err != nil {
		t.Fatal(err)
	}
	if err := s.Preload(t.Context(), dir); err != nil || !strings.Contains(s.Log.String(), "panic: index out of range") {
		t.Errorf("preload: %v; log: %s", err, s.Log)
	}
	s.get(t, "example.org/good:v1")
	if leases, err := image.Expiries(t.Context(), s.Service); err != nil || len(leases) > 0 {
		t.Errorf("leases left: %q, %v", leases, err)
	}
}

type panickyApplier struct{ diff.Applier }

func (panickyApplier) Apply(context.Context, ocispec.Descriptor, []mount.Mount, ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	panic("index out of range")
}

// TestPanicOnGoroutinesOfLibraries: the unpacker fetches and unpacks layers on goroutines of its own.
func TestPanicOnGoroutinesOfLibraries(t *testing.T) {
	_, err := image.GuardedHandler(images.HandlerFunc(func(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		panic("index out of range")
	})).Handle(t.Context(), ocispec.Descriptor{})
	_, applied := image.GuardedApplier(panickyApplier{}).Apply(t.Context(), ocispec.Descriptor{}, nil)
	for _, err := range []error{err, applied} {
		if !errors.Is(err, errdefs.ErrInternal) || !strings.Contains(err.Error(), "index out of range") {
			t.Errorf("error %v", err)
		}
	}
}

func TestPullRegistryDown(t *testing.T) {
	s := open(t)
	_, err := s.Pull(t.Context(), image.Pull{Ref: "127.0.0.1:1/test/img:v1"})
	if !errors.Is(err, crierrors.ErrRegistryUnavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
		t.Errorf("error %v", err)
	}
}

func TestPullResumesInOneGo(t *testing.T) {
	r, s := newRegistry(t), open(t)
	built, err := big(4 << 20).Build()
	if err != nil {
		t.Fatal(err)
	}
	layer := built.Layers[0].Digest
	r.pushBuilt(t, "test/img:v1", built)
	var cuts atomic.Int32
	r.inject(onBlob(layer, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if cuts.Add(1) == 1 {
			cut(w, built.Blobs[layer], 2<<20)
		}
		next.ServeHTTP(w, q)
	}))
	s.pull(t, r.host()+"/test/img:v1")
	resumed := false
	for _, q := range r.requests() {
		resumed = resumed || strings.Contains(q, layer.String()) && strings.Contains(q, "bytes=")
	}
	if !resumed {
		t.Errorf("no range request in %q", r.requests())
	}
}

// TestPullResumesLater breaks a pull off for good; the next one goes on from the byte, or, where the registry doesn't
// give ranges, starts over.
func TestPullResumesLater(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%t", ranges), func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			built, err := big(4 << 20).Build()
			if err != nil {
				t.Fatal(err)
			}
			layer, ref := built.Layers[0].Digest, r.host()+"/test/img:v1"
			r.pushBuilt(t, "test/img:v1", built)
			var n atomic.Int32
			r.inject(onBlob(layer, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				if n.Add(1) == 1 {
					cut(w, built.Blobs[layer], 3<<20)
				}
				w.WriteHeader(http.StatusServiceUnavailable)
			}))
			if _, err := s.Pull(t.Context(), image.Pull{Ref: ref}); !errors.Is(err, crierrors.ErrRegistryUnavailable) {
				t.Fatalf("error %v", err)
			}
			var asked []string
			r.inject(onBlob(layer, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				asked = append(asked, q.Header.Get("Range"))
				if !ranges && q.Header.Get("Range") != "" {
					w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
					return
				}
				next.ServeHTTP(w, q)
			}))
			s.pull(t, ref)
			if len(asked) == 0 || asked[0] == "" || (!ranges && asked[len(asked)-1] != "") {
				t.Errorf("ranges asked for: %q", asked)
			}
			leased, err := filepath.Glob(filepath.Join(s.Root, "content", "ingest", "*"))
			if err != nil || len(leased) > 0 {
				t.Errorf("partial blobs left: %v, %v", leased, err)
			}
		})
	}
}

func TestPullNoProgress(t *testing.T) {
	r := newRegistry(t)
	built, err := big(1 << 20).Build()
	if err != nil {
		t.Fatal(err)
	}
	layer := built.Layers[0].Digest
	r.pushBuilt(t, "test/img:v1", built)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hang := func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-q.Context().Done():
		case <-release:
		}
		panic(http.ErrAbortHandler)
	}
	for name, fault := range map[string]middleware{
		"no answer": func(http.Handler) http.Handler { return http.HandlerFunc(hang) },
		"stalled blob": onBlob(layer, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
			if q.Header.Get("Range") != "" {
				hang(w, q)
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(built.Blobs[layer])))
			_, _ = w.Write(built.Blobs[layer][:1000])
			_ = http.NewResponseController(w).Flush()
			hang(w, q)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, func(o *image.Options) { o.ProgressTimeout = 600 * time.Millisecond })
			r.inject(fault)
			start := time.Now()
			_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/img:v1"})
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no data") {
				t.Errorf("error %v", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
	t.Run("one dead connection", func(t *testing.T) {
		s := open(t, func(o *image.Options) { o.ProgressTimeout = 1500 * time.Millisecond })
		var n atomic.Int32
		r.inject(onBlob(layer, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			if n.Add(1) == 1 {
				w.Header().Set("Content-Length", strconv.Itoa(len(built.Blobs[layer])))
				_, _ = w.Write(built.Blobs[layer][:1000])
				_ = http.NewResponseController(w).Flush()
				hang(w, q)
			}
			next.ServeHTTP(w, q)
		}))
		s.pull(t, r.host()+"/test/img:v1")
	})
	t.Run("slow is fine", func(t *testing.T) {
		s := open(t, func(o *image.Options) { o.ProgressTimeout = 600 * time.Millisecond })
		r.inject(onBlob(layer, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", strconv.Itoa(len(built.Blobs[layer])))
			blob := built.Blobs[layer]
			for step := len(blob)/8 + 1; len(blob) > 0; {
				n := min(step, len(blob))
				_, _ = w.Write(blob[:n])
				_ = http.NewResponseController(w).Flush()
				blob = blob[n:]
				<-time.After(120 * time.Millisecond)
			}
		}))
		s.pull(t, r.host()+"/test/img:v1")
	})
}

func TestPullCutOffByCaller(t *testing.T) {
	r, s := newRegistry(t), open(t)
	built, err := big(1 << 20).Build()
	if err != nil {
		t.Fatal(err)
	}
	layer := built.Layers[0].Digest
	r.pushBuilt(t, "test/img:v1", built)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := make(chan struct{})
	r.inject(onBlob(layer, func(_ http.ResponseWriter, q *http.Request, _ http.Handler) {
		cancel()
		<-q.Context().Done()
		close(gone)
	}))
	_, err = s.Pull(ctx, image.Pull{Ref: r.host() + "/test/img:v1"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the download went on")
	}
	r.inject(nil)
	s.pull(t, r.host()+"/test/img:v1")
}

func TestPullRefusesWhatCannotRun(t *testing.T) {
	r, s := newRegistry(t), open(t)
	other := simple("other")
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	r.push(t, "test/other:v1", other)
	another := simple("another")
	another.Platform = &ocispec.Platform{OS: "windows", Architecture: "amd64"}
	r.push(t, "test/others:v1", other, another)
	r.pushBuilt(t, "test/artifact:v1", artifact(t))
	for ref, want := range map[string]struct {
		class error
		text  string
	}{
		"test/other:v1":    {errdefs.ErrFailedPrecondition, "linux/s390x"},
		"test/others:v1":   {errdefs.ErrFailedPrecondition, "linux/s390x, windows"},
		"test/artifact:v1": {errdefs.ErrInvalidArgument, "OCI artifact"},
	} {
		_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/" + ref})
		if !errors.Is(err, want.class) || !strings.Contains(err.Error(), want.text) || !strings.Contains(err.Error(), ref) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	use, _, err := s.DiskUse(t.Context())
	if err != nil || use.Bytes != 0 {
		t.Errorf("refused images take %+v, %v", use, err)
	}
}

func artifact(t *testing.T) ocilayout.Built {
	t.Helper()
	b, err := simple("x").Build()
	if err != nil {
		t.Fatal(err)
	}
	raw := strings.ReplaceAll(string(b.Blobs[b.Manifest.Digest]), ocispec.MediaTypeImageConfig, "application/vnd.example.chart+json")
	delete(b.Blobs, b.Manifest.Digest)
	b.Manifest.Digest, b.Manifest.Size = digest.FromString(raw), int64(len(raw))
	b.Blobs[b.Manifest.Digest] = []byte(raw)
	return b
}

func TestPullManyPlatforms(t *testing.T) {
	r, s := newRegistry(t), open(t)
	other := simple("other")
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	desc := r.push(t, "test/multi:v1", other, simple("ours"))
	id := s.pull(t, r.host()+"/test/multi:v1")
	if got := imagestore.Read(t, filepath.Join(s.Mount(t, "c", rootfs.From{ImageID: id}), "etc/name")); got != "ours" {
		t.Errorf("platform %q", got)
	}
	img := s.get(t, id)
	if want := r.host() + "/test/multi@" + desc.Digest.String(); len(img.RepoDigests) != 1 || img.RepoDigests[0] != want {
		t.Errorf("digests %q, want %q", img.RepoDigests, want)
	}
	if img.ManifestDigest == desc.Digest.String() {
		t.Error("manifest digest is the index")
	}
}
