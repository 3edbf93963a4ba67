// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/linear"
)

const digestOf = `"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":7`

// list is a JSON text of n items between head and tail.
func list(head, item, tail string, n int) []byte {
	var b bytes.Buffer
	b.WriteString(head)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, item, i)
	}
	b.WriteString(tail)
	return b.Bytes()
}

// TestDocumentsAreLinear: whoever makes an image chooses how large its documents are, up to a bound.
func TestDocumentsAreLinear(t *testing.T) {
	manifest := `{"config":{"mediaType":"application/vnd.oci.image.config.v1+json",` + digestOf + `},`
	entry := `{"mediaType":"application/vnd.oci.image.manifest.v1+json",` + digestOf
	for name, c := range map[string]struct{ head, item, tail, mediaType string }{
		"layers":        {manifest + `"layers":[`, `{"mediaType":"application/vnd.oci.image.layer.v1.tar%.0[1]d",` + digestOf + `}`, `]}`, ocispec.MediaTypeImageManifest},
		"annotations":   {manifest + `"annotations":{`, `"key-%d":"some value"`, `}}`, ocispec.MediaTypeImageManifest},
		"for us":        {`{"manifests":[`, entry + `,"platform":{"os":"linux","architecture":"386","variant":"v%d"}}`, `]}`, ocispec.MediaTypeImageIndex},
		"no platform":   {`{"manifests":[`, entry + `%.0[1]d}`, `]}`, ocispec.MediaTypeImageIndex},
		"many others":   {`{"manifests":[`, entry + `,"platform":{"os":"linux","architecture":"a%d"}}`, `]}`, ocispec.MediaTypeImageIndex},
		"one other":     {`{"manifests":[`, entry + `,"platform":{"os":"linux%.0[1]d","architecture":"s390x"}}`, `]}`, ocispec.MediaTypeImageIndex},
		"keys we skip":  {`{`, `"key-%d":[]`, `}`, ocispec.MediaTypeImageManifest},
		"the same key":  {`{"layers":[],`, `"layers":[{"size":%d}]`, `}`, ocispec.MediaTypeImageManifest},
		"lists inside":  {`{"x":` + strings.Repeat("[", 1000), `%d`, strings.Repeat("]", 1000) + `}`, ocispec.MediaTypeImageManifest},
		"escaped texts": {`{"annotations":{"a":"`, `\u00e4%d`, `"}}`, ocispec.MediaTypeImageManifest},
	} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, 5000, func(n int) func() {
				raw := list(c.head, c.item, c.tail, n)
				if !json.Valid(raw) {
					t.Fatalf("not JSON: %.300s", raw)
				}
				return func() { _, _ = image.ParseDocument(raw, c.mediaType) }
			})
		})
	}
}

func TestConfigsAreLinear(t *testing.T) {
	for name, c := range map[string]struct{ head, item, tail string }{
		"diff ids":    {`{"rootfs":{"diff_ids":[`, `"sha256:%064x"`, `]}}`},
		"environment": {`{"config":{"Env":[`, `"NAME_%d=value"`, `]}}`},
		"labels":      {`{"config":{"Labels":{`, `"label.%d":"value"`, `}}}`},
		"volumes":     {`{"config":{"Volumes":{`, `"/volume/%d":{}`, `}}}`},
		"history":     {`{"history":[`, `{"created_by":"step %d"}`, `]}`},
	} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, 5000, func(n int) func() {
				raw := list(c.head, c.item, c.tail, n)
				if !json.Valid(raw) {
					t.Fatalf("not JSON: %.300s", raw)
				}
				return func() { _ = image.ParseConfig(raw) }
			})
		})
	}
}

// TestHeadersAreLinear: what a registry's answers and errors say is the registry's to choose.
func TestHeadersAreLinear(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://registry.example/v2/x/manifests/y", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, item := range map[string]string{"parameters": `a%d="b"`, "escapes": `a%d="\b"`, "spaces": "    %d", "quotes": `a="%d""`} {
		t.Run("challenge of "+name, func(t *testing.T) {
			linear.Check(t, 4000, func(n int) func() {
				header := http.Header{"Www-Authenticate": {string(list(`Bearer realm="https://x/token",`, item, ``, n))}}
				return func() { _ = image.Challenge(t.Context(), request, header) }
			})
		})
	}
	t.Run("many challenges", func(t *testing.T) {
		linear.Check(t, 4000, func(n int) func() {
			header := http.Header{"Www-Authenticate": strings.Split(string(list("", `Basic realm="%d"`, "", n)), ",")}
			return func() { _ = image.Challenge(t.Context(), request, header) }
		})
	})
	t.Run("error text", func(t *testing.T) {
		linear.Check(t, 4000, func(n int) func() {
			var errs []error
			for i := range n {
				errs = append(errs, fmt.Errorf("get http://user@host/%d?signature=%d: failed", i, i))
			}
			err := errors.Join(errs...)
			return func() { _ = image.Redact(err) }
		})
	})
}

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

// TestHostsFileBound: the TOML library takes quadratic time, so a file that nobody wrote by hand is refused.
func TestHostsFileBound(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "registry.test")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for size, ok := range map[int]bool{64 << 10: true, 64<<10 + 1: false, 1 << 20: false} {
		text := strings.Repeat("#\n", size/2) + strings.Repeat("\n", size%2)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := image.Hosts(t.Context(), root, "registry.test")
		if ok != (err == nil) || err != nil && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), dir)) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// inMemory is a directory that no disk slows down, where there is one.
func inMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cri-image-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func headerOf(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1} }

func archived(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestLayersAreLinear unpacks layers of many entries of one kind.
func TestLayersAreLinear(t *testing.T) {
	needRoot(t)
	attribute := map[string]string{"SCHILY.xattr.user.a": "b"}
	for name, entry := range map[string]func(i int) tar.Header{
		"files":       func(i int) tar.Header { return tar.Header{Name: fmt.Sprint("f", i), Typeflag: tar.TypeReg, Size: 10} },
		"one file":    func(int) tar.Header { return tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 10} },
		"directories": func(i int) tar.Header { return tar.Header{Name: fmt.Sprint("d", i, "/"), Typeflag: tar.TypeDir} },
		"implied":     func(i int) tar.Header { return tar.Header{Name: fmt.Sprint("d/", i, "/e/f"), Typeflag: tar.TypeReg} },
		"whiteouts":   func(i int) tar.Header { return tar.Header{Name: fmt.Sprint("d/.wh.f", i), Typeflag: tar.TypeReg} },
		"opaque": func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint("d", i, "/.wh..wh..opq"), Typeflag: tar.TypeReg}
		},
		"links": func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint("l", i), Linkname: fmt.Sprint("l", i-1), Typeflag: tar.TypeSymlink}
		},
		"attributes": func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint("f", i), Typeflag: tar.TypeReg, PAXRecords: attribute, Format: tar.FormatPAX}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := inMemory(t)
			linear.Check(t, 300, func(n int) func() {
				var entries []tar.Header
				for i := range n {
					entries = append(entries, entry(i))
				}
				layer := archived(t, entries...)
				return func() {
					into, err := os.MkdirTemp(dir, "layer")
					if err == nil {
						err = errors.Join(image.Extract(t.Context(), into, bytes.NewReader(layer)), os.RemoveAll(into))
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestArchivesAreLinear reads docker's archives of many layers and of many images.
func TestArchivesAreLinear(t *testing.T) {
	needRoot(t)
	s := openAt(t, filepath.Join(inMemory(t), "images"))
	for name, layersOf := range map[string]func(n int) (images, layers int){
		"layers": func(n int) (int, int) { return 1, n },
		"images": func(n int) (int, int) { return n, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			dir := inMemory(t)
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
		add(names[i], archived(t, tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg}))
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
