// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// dockerArchive is what docker save writes, in its old form.
func dockerArchive(t *testing.T, tag string) []byte {
	t.Helper()
	img := simple("dockerish")
	img.Compression = ocilayout.None
	b, err := img.Build()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{b.Config.Digest.Encoded() + ".json": b.Blobs[b.Config.Digest]}
	var layers []string
	for _, l := range b.Layers {
		name := l.Digest.Encoded() + "/layer.tar"
		files[name], layers = b.Blobs[l.Digest], append(layers, name)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": b.Config.Digest.Encoded() + ".json", "RepoTags": []string{tag}, "Layers": layers}})
	if err != nil {
		t.Fatal(err)
	}
	files["manifest.json"] = manifest
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkPull50MB is a cold pull over loopback: 4 layers, 50 MB of files that compress to about half.
func BenchmarkPull50MB(b *testing.B) {
	r := newRegistry(b)
	img := ocilayout.Image{}
	for l := range 4 {
		layer := ocilayout.Layer{dir("d")}
		for f := range 200 {
			content := bytes.Repeat(noise(32<<10), 3)[f : f+64<<10]
			copy(content[:48], append([]byte{byte(l), byte(f)}, noise(46)...))
			layer = append(layer, ocilayout.File{Path: filepath.Join("d", string(rune('a'+l))+string(rune(0x100+f))), Content: content})
		}
		img.Layers = append(img.Layers, layer)
	}
	r.push(b, "bench/img:v1", img)
	b.SetBytes(4 * 200 * (64 << 10))
	for b.Loop() {
		b.StopTimer()
		s := open(b)
		b.StartTimer()
		if _, err := s.Pull(b.Context(), image.Pull{Ref: r.host() + "/bench/img:v1"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	s := open(b)
	id := s.Load(b, "example.org/one:v1", simple("one"))
	for b.Loop() {
		if _, err := s.Get(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}
