// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// anyOf is an index of what is given, as it is.
func anyOf(t testing.TB, entries []ocispec.Descriptor, parts ...ocilayout.Built) ocilayout.Built {
	t.Helper()
	if entries == nil {
		for _, p := range parts {
			entries = append(entries, p.Manifest)
		}
	}
	return rewritten(t, ocilayout.Built{}, ocispec.MediaTypeImageIndex,
		map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": entries}, parts...)
}

// rewritten is an image with another document in place of its manifest.
func rewritten(t testing.TB, b ocilayout.Built, mediaType string, doc any, parts ...ocilayout.Built) ocilayout.Built {
	t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	out := ocilayout.Built{Config: b.Config, Layers: b.Layers, Blobs: maps.Clone(b.Blobs)}
	if out.Blobs == nil {
		out.Blobs = map[digest.Digest][]byte{}
	}
	for _, p := range parts {
		maps.Copy(out.Blobs, p.Blobs)
	}
	delete(out.Blobs, b.Manifest.Digest)
	out.Manifest = ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	out.Blobs[out.Manifest.Digest] = raw
	return out
}

func built(t testing.TB, i ocilayout.Image) ocilayout.Built {
	t.Helper()
	b, err := i.Build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// entry is an image's descriptor with another platform.
func entry(b ocilayout.Built, p *ocispec.Platform) ocispec.Descriptor {
	d := b.Manifest
	d.Platform = p
	return d
}

// serve gives documents to whoever asks for them and leaves the rest to the registry, which refuses odd ones.
func (r *registry) serve(t testing.TB, ref string, root ocilayout.Built) {
	t.Helper()
	name, tag, _ := strings.Cut(ref, ":")
	r.inject(documents(name, map[string]ocispec.Descriptor{tag: root.Manifest}, root.Blobs))
}

func TestOddIndexes(t *testing.T) {
	ours, others := built(t, simple("ours")), simple("other")
	others.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	other, second := built(t, others), built(t, simple("second"))
	attestation := second.Manifest
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	muteAttestation := attestation
	muteAttestation.Platform = nil
	marked := entry(second, ours.Manifest.Platform)
	marked.ArtifactType = "application/vnd.example"
	chart := artifact(t)
	here := func(variant string) *ocispec.Platform {
		return &ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH, Variant: variant}
	}
	for name, c := range map[string]struct {
		entries []ocispec.Descriptor
		want    string // content, or the error's text
		class   error
	}{
		"two without platform":              {[]ocispec.Descriptor{entry(ours, nil), entry(second, nil)}, "ours", nil},
		"the second without platform is it": {[]ocispec.Descriptor{entry(other, nil), entry(ours, nil)}, "ours", nil},
		"one without one for another":       {[]ocispec.Descriptor{other.Manifest, entry(ours, nil)}, "ours", nil},
		"one without one that says":         {[]ocispec.Descriptor{entry(second, nil), ours.Manifest}, "ours", nil},
		"empty platforms":                   {[]ocispec.Descriptor{entry(other, &ocispec.Platform{}), entry(ours, &ocispec.Platform{})}, "ours", nil},
		"platform of the system only":       {[]ocispec.Descriptor{entry(ours, &ocispec.Platform{OS: "linux"})}, "ours", nil},
		"platform without a system":         {[]ocispec.Descriptor{entry(ours, &ocispec.Platform{Architecture: runtime.GOARCH})}, "ours", nil},
		"one twice":                         {[]ocispec.Descriptor{ours.Manifest, ours.Manifest, second.Manifest}, "ours", nil},
		"an attestation first":              {[]ocispec.Descriptor{attestation, ours.Manifest}, "ours", nil},
		"an attestation without platform":   {[]ocispec.Descriptor{muteAttestation, entry(ours, nil)}, "ours", nil},
		"an artifact first":                 {[]ocispec.Descriptor{marked, ours.Manifest}, "ours", nil},
		"an image that is marked":           {[]ocispec.Descriptor{marked}, "second", nil},
		"an artifact without platform":      {[]ocispec.Descriptor{entry(chart, nil), entry(ours, nil)}, "ours", nil},
		"another index first":               {[]ocispec.Descriptor{entry(anyOf(t, nil, other), nil), entry(anyOf(t, nil, ours), nil)}, "ours", nil},
		"an index that says":                {[]ocispec.Descriptor{entry(anyOf(t, nil, other, ours), here(""))}, "ours", nil},
		"an index that does not say":        {[]ocispec.Descriptor{entry(anyOf(t, nil, other, ours), nil), other.Manifest}, "ours", nil},
		"a layer beside it":                 {[]ocispec.Descriptor{ours.Layers[0], ours.Manifest}, "ours", nil},
		"two neither for us":                {[]ocispec.Descriptor{entry(other, nil), entry(other, nil)}, "the 2 entries that don't say", errdefs.ErrFailedPrecondition},
		"none":                              {[]ocispec.Descriptor{}, "only for: none", errdefs.ErrFailedPrecondition},
		"attestations only":                 {[]ocispec.Descriptor{attestation, attestation}, "only for: none", errdefs.ErrFailedPrecondition},
		"one without not ours":              {[]ocispec.Descriptor{entry(other, nil)}, "the image is for linux/s390x", errdefs.ErrFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			root := anyOf(t, c.entries, ours, other, second, chart, anyOf(t, nil, other), anyOf(t, nil, ours), anyOf(t, nil, other, ours))
			r.serve(t, "test/odd:v1", root)
			id, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/odd:v1"})
			if c.class != nil {
				if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := imagestore.Read(t, filepath.Join(s.Mount(t, "c", rootfs.From{ImageID: id}), "etc/name")); got != c.want {
				t.Errorf("took %q", got)
			}
		})
	}
}

// TestIndexOfManyEntries: what has to be read to be judged is bounded, whatever an index has.
func TestIndexOfManyEntries(t *testing.T) {
	r, s := newRegistry(t), open(t)
	others := simple("other")
	others.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	other := built(t, others)
	var entries []ocispec.Descriptor
	for range 10000 {
		entries = append(entries, entry(other, nil))
	}
	r.serve(t, "test/many:v1", anyOf(t, entries, other))
	_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/many:v1"})
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "none of the first 32 entries") {
		t.Errorf("error %v", err)
	}
}

// TestAmbiguousDocuments: what two readers could take for two different images is refused.
func TestAmbiguousDocuments(t *testing.T) {
	const index, manifest, schema1 = ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v1+prettyjws"
	b := built(t, simple("one"))
	type doc = map[string]any
	entries := []ocispec.Descriptor{b.Manifest}
	for name, c := range map[string]struct {
		served string
		doc    doc
		text   string // "": it is taken
	}{
		"both served as a manifest":     {manifest, doc{"config": b.Config, "layers": b.Layers, "manifests": entries}, "an index and a manifest at once"},
		"both served as an index":       {index, doc{"config": b.Config, "layers": b.Layers, "manifests": entries}, "an index and a manifest at once"},
		"both one part empty":           {manifest, doc{"config": b.Config, "layers": b.Layers, "manifests": []string{}}, "an index and a manifest at once"},
		"an index with layers":          {index, doc{"layers": b.Layers, "manifests": entries}, "an index and a manifest at once"},
		"a manifest with capitals":      {manifest, doc{"config": b.Config, "layers": b.Layers, "MANIFESTS": entries}, "an index and a manifest at once"},
		"a manifest that says index":    {manifest, doc{"mediaType": index, "config": b.Config, "layers": b.Layers}, "its own media type is"},
		"an index that says manifest":   {index, doc{"mediaType": manifest, "manifests": entries}, "its own media type is"},
		"a manifest served as index":    {index, doc{"config": b.Config, "layers": b.Layers}, "its own media type is"},
		"an index served as manifest":   {manifest, doc{"manifests": entries}, "its own media type is"},
		"schema 1 under another name":   {manifest, doc{"fsLayers": []doc{{"blobSum": b.Layers[0].Digest}}}, "schema 1"},
		"schema 1 that says so":         {manifest, doc{"mediaType": schema1, "config": b.Config, "layers": b.Layers}, "schema 1"},
		"a manifest without config":     {manifest, doc{"layers": b.Layers}, "no config"},
		"nothing":                       {manifest, doc{}, "no config"},
		"docker's name for the same":    {manifest, doc{"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config": b.Config, "layers": b.Layers}, ""},
		"no name":                       {manifest, doc{"config": b.Config, "layers": b.Layers}, ""},
		"no name and no other part":     {manifest, doc{"config": b.Config, "layers": b.Layers, "manifests": nil}, ""},
		"an index with docker's name":   {index, doc{"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": entries}, ""},
		"an index without a name":       {index, doc{"manifests": entries}, ""},
		"a manifest of an unknown name": {manifest, doc{"mediaType": "application/json", "config": b.Config, "layers": b.Layers}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			r.serve(t, "test/both:v1", rewritten(t, ocilayout.Built{}, c.served, c.doc, b))
			_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/both:v1"})
			if c.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v", err)
			}
		})
	}
}
