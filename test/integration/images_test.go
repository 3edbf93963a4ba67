// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/ocilayout"
	"github.com/cri-shim/cri-shim/test/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// door is a real registry behind a door that tests put faults into.
type door struct {
	*httptest.Server
	registry *registry.Registry
	fault    atomic.Pointer[http.HandlerFunc] // answers itself, or panics; nil lets through
}

func openDoor(t *testing.T) *door {
	t.Helper()
	r, err := registry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{registry: r}
	proxy := httputil.NewSingleHostReverseProxy(target)
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if f := d.fault.Load(); f != nil {
			(*f)(w, q)
			return
		}
		proxy.ServeHTTP(w, q)
	}))
	t.Cleanup(func() { d.Close(); r.Close() })
	return d
}

func (d *door) host() string { return strings.TrimPrefix(d.URL, "http://") }

func (d *door) inject(f http.HandlerFunc) {
	if f == nil {
		d.fault.Store(nil)
		return
	}
	d.fault.Store(&f)
}

// through answers as the registry does, except for one blob.
func (d *door) through(t *testing.T, blob string, instead http.HandlerFunc) http.HandlerFunc {
	target, err := url.Parse(d.registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	return func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet && strings.HasSuffix(q.URL.Path, blob) {
			instead(w, q)
			return
		}
		proxy.ServeHTTP(w, q)
	}
}

func pull(t *testing.T, d *nodetest.Node, ref string) (string, error) {
	t.Helper()
	r, err := d.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
	return r.GetImageRef(), err
}

func images(t *testing.T, d *nodetest.Node) []*cri.Image {
	t.Helper()
	l, err := d.Images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return l.Images
}

func TestPullFaults(t *testing.T) {
	t.Parallel()
	d, r := nodetest.Start(t), openDoor(t)
	built, err := fileImage("a/file", strings.Repeat("content", 100)).Build()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ocilayout.PushBuilt(t.Context(), r.registry.URL, "test/img:v1", built); err != nil {
		t.Fatal(err)
	}
	ref := r.host() + "/test/img:v1"
	layer := built.Layers[0].Digest
	blob := built.Blobs[layer]
	serve := func(b []byte) http.HandlerFunc {
		return r.through(t, layer.String(), func(w http.ResponseWriter, _ *http.Request) { w.Write(b) })
	}
	wrong := append([]byte{}, blob...)
	wrong[len(wrong)/2] ^= 1
	for _, c := range []struct {
		name    string
		fault   http.HandlerFunc
		code    codes.Code
		mention string
	}{
		{"401", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
		}, codes.Unauthenticated, "credentials"},
		{"503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, codes.Unknown, "RegistryUnavailable"},
		{"truncated", serve(blob[:len(blob)/2]), codes.Unknown, "RegistryUnavailable"},
		{"wrong content", serve(wrong), codes.DataLoss, layer.String()},
		{"no such tag", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, codes.NotFound, "not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.inject(c.fault)
			defer r.inject(nil)
			_, err := pull(t, d, ref)
			code(t, err, c.code, ref, c.mention)
			if l := images(t, d); len(l) > 0 {
				t.Errorf("images after a broken pull: %v", l)
			}
		})
	}
	_, err = pull(t, d, "127.0.0.1:1/test/img:v1")
	code(t, err, codes.Unknown, "RegistryUnavailable", "127.0.0.1:1/test/img:v1")
	_, err = pull(t, d, "Not A Name")
	code(t, err, codes.InvalidArgument, "Not A Name")
	if id, err := pull(t, d, ref); err != nil || id != built.ID() {
		t.Errorf("pull once the registry is well: %s, %v; want %s", id, err, built.ID())
	}
}

// Images that this machine cannot run, and images that try to leave their
// place, are refused; nothing outside of the image store is touched.
func TestHostileImages(t *testing.T) {
	t.Parallel()
	d, r := nodetest.Start(t), openDoor(t)
	canary := filepath.Join(d.Dir, "canary")
	mustWrite(t, canary, "untouched")
	up := strings.Repeat("../", 24)
	for _, c := range []struct {
		name  string
		image ocilayout.Image
	}{
		{"dots", ocilayout.Image{Layers: []ocilayout.Layer{{{Path: up + canary[1:], Content: []byte("gotcha")}}}}},
		{"symlink", ocilayout.Image{Layers: []ocilayout.Layer{{
			{Path: "out", Symlink: filepath.Dir(canary)}, {Path: "out/canary", Content: []byte("gotcha")},
		}}}},
		{"symlink-layers", ocilayout.Image{Layers: []ocilayout.Layer{
			{{Path: "out", Symlink: up + filepath.Dir(canary)[1:]}}, {{Path: "out/canary", Content: []byte("gotcha")}},
		}}},
		{"hardlink", ocilayout.Image{Layers: []ocilayout.Layer{{
			{Path: "out", Hardlink: up + canary[1:]}, {Path: "out", Content: []byte("gotcha")},
		}}}},
		{"whiteout", ocilayout.Image{Layers: []ocilayout.Layer{{{Path: up + filepath.Dir(canary)[1:] + "/.wh.canary"}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ocilayout.Push(t.Context(), r.registry.URL, "test/"+c.name+":v1", c.image); err != nil {
				t.Fatal(err)
			}
			ref := r.host() + "/test/" + c.name + ":v1"
			if _, err := pull(t, d, ref); err != nil {
				contains(t, "error", err.Error(), ref)
				if s := status.Code(err); s == codes.Unavailable || s == codes.Internal {
					t.Errorf("code %s: %v", s, err)
				}
			}
			if data, err := os.ReadFile(canary); err != nil || string(data) != "untouched" {
				t.Fatalf("the canary: %q, %v", data, err)
			}
		})
	}
	t.Run("other architecture", func(t *testing.T) {
		other := fileImage("a/file", "x")
		other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
		if _, err := ocilayout.Push(t.Context(), r.registry.URL, "test/other:v1", other); err != nil {
			t.Fatal(err)
		}
		_, err := pull(t, d, r.host()+"/test/other:v1")
		if err == nil {
			t.Fatal("pulled an image for another architecture")
		}
		contains(t, "error", err.Error(), "s390x", "test/other:v1")
		if c := status.Code(err); c == codes.Unavailable || c == codes.Internal {
			t.Errorf("code %s", c)
		}
	})
}

// A node whose registries are all one on loopback pulls by tag and by digest.
func TestPullThroughHosts(t *testing.T) {
	t.Parallel()
	d, r := nodetest.Start(t), openDoor(t)
	const name = "registry.cri-shim.test/e2e/web"
	if err := r.registry.WriteHosts(filepath.Join(d.Dir, "certs.d"), "registry.cri-shim.test"); err != nil {
		t.Fatal(err)
	}
	before := imageBytes(t, d)
	desc, err := ocilayout.Push(t.Context(), r.registry.URL, "e2e/web:1", nodetest.TestboxImage(t))
	if err != nil {
		t.Fatal(err)
	}
	id, err := pull(t, d, name+":1")
	if err != nil {
		t.Fatal(err)
	}
	if full := imageBytes(t, d); full <= before {
		t.Errorf("ImageFsInfo: %d bytes before the pull, %d after", before, full)
	}
	byDigest := name + "@" + desc.Digest.String()
	if again, err := pull(t, d, byDigest); err != nil || again != id {
		t.Errorf("pull by digest: %s, %v; by tag it is %s", again, err, id)
	}
	for _, ref := range []string{name + ":1", byDigest, id, strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:12]} {
		s, err := d.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}, Verbose: true})
		if err != nil || s.Image.GetId() != id || s.Image.Size == 0 {
			t.Fatalf("ImageStatus %s: %v, %v", ref, s, err)
		}
		if fmt.Sprint(s.Image.RepoTags, s.Image.RepoDigests) != fmt.Sprint([]string{name + ":1"}, []string{byDigest}) {
			t.Errorf("names of %s: %v %v", ref, s.Image.RepoTags, s.Image.RepoDigests)
		}
	}
	pod, config := quickPod(t, d, "user")
	for i, ref := range []string{name + ":1", byDigest, id} {
		c := inHostNet(fmt.Sprintf("by-%d", i), "echo", "it runs")
		c.Image.Image = ref
		contains(t, "log", output(t, d, pod, c, config), "it runs")
		s := d.Status(t, d.Create(t, pod, inHostNetImage(fmt.Sprintf("st-%d", i), ref), config))
		if s.ImageId != id || s.ImageRef != byDigest && s.ImageRef != id {
			t.Errorf("container of %s: image id %s, ref %s", ref, s.ImageId, s.ImageRef)
		}
	}
	removePod(t, d, pod)
	if _, err := d.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}}); err != nil {
		t.Fatal(err)
	}
	if l := images(t, d); len(l) > 0 {
		t.Errorf("images after the removal: %v", l)
	}
	nodetest.Eventually(t, patience, "space of the image is free", func() bool { return imageBytes(t, d) == before })
}

func inHostNetImage(name, ref string) *cri.ContainerConfig {
	c := inHostNet(name, "sleep")
	c.Image.Image = ref
	return c
}

func imageBytes(t *testing.T, d *nodetest.Node) uint64 {
	t.Helper()
	r, err := d.Images.ImageFsInfo(t.Context(), &cri.ImageFsInfoRequest{})
	if err != nil || len(r.ImageFilesystems) != 1 {
		t.Fatalf("ImageFsInfo: %v, %v", r, err)
	}
	return r.ImageFilesystems[0].UsedBytes.Value
}

// What a directory holds is there from the start: layouts and archives, pinned.
func TestPreload(t *testing.T) {
	t.Parallel()
	dir, layout := t.TempDir(), t.TempDir()
	writeLayout(t, dir, nodetest.TestImage, nodetest.TestboxImage(t))
	writeLayout(t, layout, "cri-shim.test/tar:1", fileImage("from/tar", "x"))
	f, err := os.Create(filepath.Join(dir, "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	inner, _ := filepath.Glob(filepath.Join(layout, "*"))
	if err := ocilayout.Tar(inner[0], f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	broken := filepath.Join(dir, "broken")
	writeLayout(t, dir, "cri-shim.test/broken:1", fileImage("from/broken", "x"))
	found, _ := filepath.Glob(filepath.Join(dir, "cri-shim.test-broken-1", "blobs", "sha256", "*"))
	for _, blob := range found {
		mustWrite(t, blob, "bits have rotted")
	}
	mustWrite(t, broken+".tar", "no archive")
	d := nodetest.Start(t, fmt.Sprintf("[image]\npreload_dir = %q\n", dir))
	d.AwaitImage(t, "cri-shim.test/tar:1")
	l := images(t, d)
	if len(l) != 2 {
		t.Errorf("images %v, want the two that are sound", l)
	}
	for _, i := range l {
		if !i.Pinned || len(i.RepoTags) != 1 {
			t.Errorf("image %v, want it pinned and named", i)
		}
	}
	nodetest.Eventually(t, patience, "the log tells of what is broken", func() bool {
		return strings.Contains(d.Log(), "cri-shim.test-broken-1") && strings.Contains(d.Log(), "broken.tar")
	})
}
