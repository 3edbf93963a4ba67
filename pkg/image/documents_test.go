// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// documents answers for one repository from blobs, and lets all else through.
func documents(repository string, tags map[string]ocispec.Descriptor, blobs map[digest.Digest][]byte) middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			rest, ok := strings.CutPrefix(q.URL.Path, "/v2/"+repository+"/")
			kind, name, _ := strings.Cut(rest, "/")
			desc, tagged := tags[name]
			if !tagged {
				desc = ocispec.Descriptor{Digest: digest.Digest(name), MediaType: typeOf(blobs[digest.Digest(name)])}
			}
			blob, found := blobs[desc.Digest]
			if !ok || !found {
				next.ServeHTTP(w, q)
				return
			}
			if kind == "manifests" {
				w.Header().Set("Content-Type", desc.MediaType)
				w.Header().Set("Docker-Content-Digest", desc.Digest.String())
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
			_, _ = w.Write(blob)
		})
	}
}

func typeOf(blob []byte) string {
	if bytes.Contains(blob, []byte(`"manifests"`)) {
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}

// withConfig is an image with another config.
func withConfig(t testing.TB, b ocilayout.Built, raw []byte) ocilayout.Built {
	t.Helper()
	config := ocispec.Descriptor{MediaType: b.Config.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	out := rewritten(t, b, b.Manifest.MediaType, map[string]any{
		"schemaVersion": 2, "mediaType": b.Manifest.MediaType, "config": config, "layers": b.Layers,
	})
	out.Config = config
	out.Blobs[config.Digest] = raw
	return out
}

// TestOddConfigs: what of a config isn't needed to run the image doesn't keep it from being pulled.
func TestOddConfigs(t *testing.T) {
	b := built(t, simple("one"))
	var spec map[string]any
	if err := json.Unmarshal(b.Blobs[b.Config.Digest], &spec); err != nil {
		t.Fatal(err)
	}
	layers := spec["rootfs"]
	for name, change := range map[string]map[string]any{
		"created empty":      {"created": ""},
		"created no time":    {"created": "yesterday"},
		"created a number":   {"created": 1234},
		"history odd":        {"history": []any{map[string]any{"created": "", "empty_layer": "yes"}}},
		"history no list":    {"history": "none"},
		"author a list":      {"author": []any{"a", "b"}},
		"no platform":        {"architecture": "", "os": ""},
		"config null":        {"config": nil},
		"rootfs no type":     {"rootfs": map[string]any{"diff_ids": layers.(map[string]any)["diff_ids"]}},
		"unknown properties": {"x": map[string]any{"y": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			odd := map[string]any{"architecture": runtime.GOARCH, "os": "linux", "config": spec["config"], "rootfs": layers}
			maps.Copy(odd, change)
			raw, err := json.Marshal(odd)
			if err != nil {
				t.Fatal(err)
			}
			r.pushBuilt(t, "test/odd:v1", withConfig(t, b, raw))
			id := s.pull(t, r.host()+"/test/odd:v1")
			if imgs, err := s.List(t.Context()); err != nil || len(imgs) != 1 {
				t.Errorf("images %v, %v", imgs, err)
			}
			if _, err := s.Info(t.Context(), id); err != nil {
				t.Error(err)
			}
			if got := imagestore.Read(t, filepath.Join(s.Mount(t, "c", rootfs.From{ImageID: id}), "etc/name")); got != "one" {
				t.Errorf("content %q", got)
			}
		})
	}
}

// TestEmptyLayers: a layer of no bytes is an archive of no files, packed or not.
func TestEmptyLayers(t *testing.T) {
	var packed bytes.Buffer
	if err := gzip.NewWriter(&packed).Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		mediaType string
		blob      []byte
	}{
		"plain":               {ocispec.MediaTypeImageLayer, nil},
		"gzip of nothing":     {ocispec.MediaTypeImageLayerGzip, packed.Bytes()},
		"nothing called gzip": {ocispec.MediaTypeImageLayerGzip, nil},
		"nothing called zstd": {ocispec.MediaTypeImageLayerZstd, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			b := built(t, simple("one"))
			empty := ocispec.Descriptor{MediaType: c.mediaType, Digest: digest.FromBytes(c.blob), Size: int64(len(c.blob))}
			b.Blobs[empty.Digest] = c.blob
			b.Layers = append(b.Layers, empty, b.Layers[0])
			var spec ocispec.Image
			if err := json.Unmarshal(b.Blobs[b.Config.Digest], &spec); err != nil {
				t.Fatal(err)
			}
			spec.RootFS.DiffIDs = append(spec.RootFS.DiffIDs, digest.FromBytes(nil), spec.RootFS.DiffIDs[0])
			raw, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			r.serve(t, "test/empty:v1", withConfig(t, b, raw))
			id := s.pull(t, r.host()+"/test/empty:v1")
			if got := imagestore.Read(t, filepath.Join(s.Mount(t, "c", rootfs.From{ImageID: id}), "etc/name")); got != "one" {
				t.Errorf("content %q", got)
			}
			if again := s.pull(t, r.host()+"/test/empty:v1"); again != id {
				t.Errorf("pulled again: %s, not %s", again, id)
			}
		})
	}
}

// TestClaimedSizes: a descriptor that gives a blob, which may be here already, another size is refused before the blob
// is read into memory.
func TestClaimedSizes(t *testing.T) {
	layer := big(12 << 20)
	layer.Compression = ocilayout.None
	b := built(t, layer)
	r, full := newRegistry(t), open(t)
	r.pushBuilt(t, "test/base:v1", b)
	full.pull(t, r.host()+"/test/base:v1")
	claim := func(d ocispec.Descriptor, mediaType string, size int64) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: d.Digest, Size: size}
	}
	manifest := func(config ocispec.Descriptor, layers ...ocispec.Descriptor) ocilayout.Built {
		return rewritten(t, b, ocispec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "config": config, "layers": layers})
	}
	for name, c := range map[string]ocilayout.Built{
		"config":          manifest(claim(b.Layers[0], ocispec.MediaTypeImageConfig, 200), b.Layers...),
		"config negative": manifest(claim(b.Layers[0], ocispec.MediaTypeImageConfig, -1), b.Layers...),
		"config none":     manifest(claim(b.Layers[0], ocispec.MediaTypeImageConfig, 0), b.Layers...),
		"config too much": manifest(claim(b.Config, ocispec.MediaTypeImageConfig, b.Config.Size+1), b.Layers...),
		"layer":           manifest(b.Config, claim(b.Layers[0], ocispec.MediaTypeImageLayer, 7)),
		"manifest":        anyOf(t, []ocispec.Descriptor{claim(b.Layers[0], ocispec.MediaTypeImageManifest, 200)}, b),
		"index":           anyOf(t, []ocispec.Descriptor{claim(b.Layers[0], ocispec.MediaTypeImageIndex, 200)}, b),
	} {
		for where, s := range map[string]store{"present": full, "absent": open(t)} {
			t.Run(name+" "+where, func(t *testing.T) {
				r.serve(t, "test/liar:v1", c)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/liar:v1"})
				runtime.ReadMemStats(&after)
				if name == "layer" && where == "present" {
					return // its unpacked form is here: the blob isn't asked for
				}
				if err == nil {
					t.Fatal("pulled")
				}
				if where == "present" && !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Errorf("error %v", err)
				}
				if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
					t.Errorf("%d bytes allocated", got)
				}
			})
		}
	}
}

// TestLayerCount: an image that overlayfs can't mount is refused before its layers are downloaded.
func TestLayerCount(t *testing.T) {
	r, s := newRegistry(t), open(t)
	b := built(t, simple("one"))
	for len(b.Layers) <= 500 {
		b.Layers = append(b.Layers, b.Layers[0])
	}
	r.serve(t, "test/deep:v1", withConfig(t, b, b.Blobs[b.Config.Digest]))
	_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/deep:v1"})
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "501 layers") {
		t.Errorf("error %v", err)
	}
}
