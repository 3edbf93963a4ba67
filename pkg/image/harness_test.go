// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// registry is a real registry on loopback, with a door in front that tests can put faults into.
type registry struct {
	*httptest.Server

	mu    sync.Mutex // guards the rest
	fault func(next http.Handler) http.Handler
	seen  []string // "METHOD path range"
}

func newRegistry(t testing.TB) *registry {
	t.Helper()
	logrus.SetOutput(io.Discard)
	app := handlers.NewApp(context.Background(), &configuration.Configuration{
		Storage: configuration.Storage{"inmemory": configuration.Parameters{}, "maintenance": configuration.Parameters{
			"uploadpurging": map[any]any{"enabled": false},
		}},
		Catalog: configuration.Catalog{MaxEntries: 100},
	})
	r := &registry{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, strings.TrimSpace(req.Method+" "+req.URL.Path+" "+req.Header.Get("Range")))
		fault := r.fault
		r.mu.Unlock()
		var h http.Handler = app
		if fault != nil {
			h = fault(app)
		}
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *registry) host() string { return strings.TrimPrefix(r.URL, "http://") }

func (r *registry) inject(f func(next http.Handler) http.Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault, r.seen = f, nil
}

func (r *registry) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.seen...)
}

// push sends an image to the registry, past the fault, and returns what the name stands for.
func (r *registry) push(t testing.TB, ref string, images ...ocilayout.Image) ocispec.Descriptor {
	t.Helper()
	desc, err := ocilayout.Push(t.Context(), r.URL, ref, images...)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func (r *registry) pushBuilt(t testing.TB, ref string, images ...ocilayout.Built) ocispec.Descriptor {
	t.Helper()
	desc, err := ocilayout.PushBuilt(t.Context(), r.URL, ref, images...)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

type store struct {
	imagestore.Store
	registries string // directory of hosts.toml, "" = none
}

func openAt(t testing.TB, root string, change ...func(*image.Options)) store {
	t.Helper()
	var got store
	change = append(slices.Clip(change), func(o *image.Options) { got.registries = o.RegistryConfig })
	got.Store = imagestore.Open(t, root, change...)
	return got
}

func open(t testing.TB, change ...func(*image.Options)) store {
	t.Helper()
	imagestore.NeedRoot(t)
	return openAt(t, filepath.Join(t.TempDir(), "images"), change...)
}

func (s store) pull(t testing.TB, ref string) string {
	t.Helper()
	id, err := s.Pull(t.Context(), image.Pull{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (s store) get(t testing.TB, ref string) image.Image {
	t.Helper()
	img, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func file(path, content string) ocilayout.File {
	return ocilayout.File{Path: path, Content: []byte(content)}
}

func dir(path string) ocilayout.File { return ocilayout.File{Path: path, Dir: true} }

func simple(content string) ocilayout.Image {
	return ocilayout.Image{
		Layers: []ocilayout.Layer{{dir("etc"), file("etc/name", content)}, {dir("bin"), file("bin/tool", "tool of "+content)}},
		Config: ocispec.ImageConfig{User: "1000:1000", Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/tool"}},
	}
}
