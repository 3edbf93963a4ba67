// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/linear"
)

func TestReferencesAreLinear(t *testing.T) {
	for name, item := range map[string]string{"components": "a/", "separators": "a__", "dashes": "a---", "ports": "a:1", "digests": "a@sha256:00", "brackets": "[::"} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, 5000, func(n int) func() {
				ref := strings.Repeat(item, n) + "z"
				return func() { _, _ = image.Normalize(ref) }
			})
		})
	}
}

// TestArchivesAreLinear reads docker's archives of many layers and of many images.
func TestArchivesAreLinear(t *testing.T) {
	imagestore.NeedRoot(t)
	s := openAt(t, filepath.Join(linear.Dir(t), "images"))
	for name, layersOf := range map[string]func(n int) (images, layers int){
		"layers": func(n int) (int, int) { return 1, n },
		"images": func(n int) (int, int) { return n, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			dir := linear.Dir(t)
			linear.Check(t, 150, func(n int) func() {
				path := filepath.Join(dir, fmt.Sprint(n, ".tar"))
				images, layers := layersOf(n)
				if err := os.WriteFile(path, manyImages(t, images, layers), 0o600); err != nil {
					t.Fatal(err)
				}
				return func() {
					if found, err := image.ImportArchive(t.Context(), s.Service, path); err != nil || found != images {
						t.Errorf("%d images, %v", found, err)
					}
				}
			})
		})
	}
}

// manyImages is an archive of docker's of so many images, each of all the layers.
func manyImages(t testing.TB, images, layers int) []byte {
	t.Helper()
	type entry struct {
		Config string
		Layers []string
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, content []byte) {
		t.Helper()
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for i := range layers {
		names = append(names, fmt.Sprint("layer", i, ".tar"))
		add(names[i], linear.Archive(t, tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg}))
	}
	var all []entry
	for i := range images {
		all = append(all, entry{fmt.Sprint("config", i, ".json"), names})
		add(all[i].Config, fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","config":{"User":"u%d"}}`, i))
	}
	manifest, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	add("manifest.json", manifest)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
