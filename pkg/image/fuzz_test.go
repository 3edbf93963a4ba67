// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
)

// FuzzReference: a name is refused as the caller's mistake, or has one full form, which is its own.
func FuzzReference(f *testing.F) {
	for _, ref := range []string{
		"busybox", "a/b:c", "localhost:5000/x", "[::1]:80/x@sha256:" + zeros, "docker.io/library/a:1@sha256:" + zeros, "sha256:" + zeros, zeros, "A", "a//b", ":", "",
	} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		full, err := image.Normalize(ref)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", ref, err)
			}
			return
		}
		if again, err := image.Normalize(full); err != nil || again != full {
			t.Errorf("%q is %q, and that is %q, %v", ref, full, again, err)
		}
	})
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// FuzzHosts: whatever is in a hosts.toml gives hosts to ask or an error.
func FuzzHosts(f *testing.F) {
	for _, text := range []string{
		"", "server = \"https://mirror\"\n", "[host.\"http://a:1/v2\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n",
		"[host.\"https://b\"]\nca = [\"x\"]\nclient = [[\"c\", \"k\"]]\noverride_path = true\ndial_timeout = \"1s\"\n[host.\"https://b\".header]\nx = [\"y\"]\n",
		"server = 1", "[host]", "[host.\"\"]", "[[host]]",
	} {
		f.Add(text)
	}
	root := f.TempDir()
	dir := filepath.Join(root, "registry.test")
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		hosts, err := image.Hosts(t.Context(), root, "registry.test")
		if err == nil && len(hosts) == 0 {
			t.Errorf("nobody to ask, and no error, with %q", text)
		}
	})
}

// FuzzDocument: a manifest or index is refused as the image's mistake, or all that may be run of it has a known kind; no
// document is both.
func FuzzDocument(f *testing.F) {
	entry := `{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"sha256:` + zeros + `","size":7}`
	config := `{"mediaType":"` + ocispec.MediaTypeImageConfig + `","digest":"sha256:` + zeros + `","size":7}`
	for _, text := range []string{
		"", "{}", "null", "[]", `{"manifests":null}`, `{"manifests":[]}`, `{"manifests":[` + entry + `,` + entry + `]}`, `{"config":` + config + `}`,
		`{"config":` + config + `,"layers":[{"mediaType":"` + ocispec.MediaTypeImageLayerGzip + `","digest":"sha256:` + zeros + `","size":7}]}`,
		`{"config":` + config + `,"manifests":[` + entry + `]}`, `{"fsLayers":[]}`, `{"mediaType":"` + ocispec.MediaTypeImageIndex + `"}`,
		`{"manifests":[{"mediaType":"` + ocispec.MediaTypeImageIndex + `","platform":{"os":"unknown","architecture":"unknown"}}]}`, `{"annotations":{"a":1}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, indexErr := image.ParseDocument(raw, ocispec.MediaTypeImageIndex)
		_, manifestErr := image.ParseDocument(raw, ocispec.MediaTypeImageManifest)
		if indexErr == nil && manifestErr == nil {
			t.Error("an index and a manifest")
		}
		for _, err := range []error{indexErr, manifestErr} {
			if err != nil && !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
		}
		for _, d := range entries {
			if d.MediaType == "" || len(d.Annotations)+len(d.URLs) > 0 || d.Platform != nil && d.Platform.OS == "unknown" {
				t.Errorf("candidate %+v", d)
			}
		}
	})
}

// FuzzImageConfig: a config is refused as the image's mistake, or taken.
func FuzzImageConfig(f *testing.F) {
	for _, text := range []string{
		"", "{}", "null", `{"created":""}`, `{"config":null}`, `{"config":{"User":"1","Volumes":{"/a":{}},"Env":["A=b"]}}`,
		`{"rootfs":{"type":"layers","diff_ids":["sha256:` + zeros + `"]}}`, `{"rootfs":{"diff_ids":["x"]}}`, `{"os.features":["a"],"variant":"v8"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := image.ParseConfig(raw); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("class of %v", err)
		}
	})
}

// FuzzAnswer: whatever a registry's header says, a wait is positive and bounded, and a challenge is taken or refused.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{"", "1", "-1", "0", "18446744073709551616", "1.5", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT",
		`Bearer realm="https://x/token",service="a\"b",scope="c d"`, "Basic", `Bearer realm=":"`, "Bearer", `Digest x="`} {
		f.Add(text, text)
	}
	request, err := http.NewRequest(http.MethodGet, "https://registry.example/v2/", nil) //nolint:noctx // it is never sent
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, header, date string) {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {header}, "Date": {date}}}
		if wait, ok := image.PutOff(resp); ok && (wait < time.Second || wait > 366*24*time.Hour) {
			t.Errorf("%q, %q: wait %s", header, date, wait)
		}
		_ = image.Challenge(t.Context(), request, http.Header{"Www-Authenticate": {header, date}}) // it returns
	})
}

// FuzzLayer: a layer, packed or not, unpacks inside its directory or is refused.
func FuzzLayer(f *testing.F) {
	needRoot(f)
	for _, h := range []string{"a", "../a", "/a", "a/../../b", ".wh.a", ".wh..wh..opq", "a/.wh..wh..opq", "."} {
		f.Add(archived(f, headerOf(h)))
	}
	f.Add([]byte{0x1f, 0x8b})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Add([]byte{})
	root := inMemory(f)
	f.Fuzz(func(t *testing.T, layer []byte) {
		outer, err := os.MkdirTemp(root, "outer")
		if err != nil {
			t.Fatal(err)
		}
		into := filepath.Join(outer, "layer")
		if err := os.Mkdir(into, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = image.Extract(t.Context(), into, bytes.NewReader(layer)) // refused or not, nothing may be outside
		left, err := os.ReadDir(outer)
		if err != nil || len(left) != 1 {
			t.Errorf("beside the layer: %v, %v", left, err)
		}
		if err := os.RemoveAll(outer); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzArchive: an archive to preload is read or refused.
func FuzzArchive(f *testing.F) {
	needRoot(f)
	f.Add(manyImages(f, 1, 1))
	f.Add(manyImages(f, 0, 0))
	f.Add(archived(f, headerOf("oci-layout")))
	f.Add([]byte{})
	dir := inMemory(f)
	s := openAt(f, filepath.Join(dir, "images"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(dir, "x.tar")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := image.ImportArchive(t.Context(), s.Service, path); err == nil && n == 0 {
			t.Error("an archive of no image was read")
		}
	})
}
