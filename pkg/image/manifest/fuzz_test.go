// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/manifest"
)

// FuzzDocument: a manifest or index is refused as the image's mistake, or all that may be run of it has a known kind; no
// document is both.
func FuzzDocument(f *testing.F) {
	entry := `{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"` + zeroDigest + `","size":7}`
	config := `{"mediaType":"` + ocispec.MediaTypeImageConfig + `","digest":"` + zeroDigest + `","size":7}`
	for _, text := range []string{
		"", "{}", "null", "[]", `{"manifests":null}`, `{"manifests":[]}`, `{"manifests":[` + entry + `,` + entry + `]}`, `{"config":` + config + `}`,
		`{"config":` + config + `,"layers":[{"mediaType":"` + ocispec.MediaTypeImageLayerGzip + `","digest":"` + zeroDigest + `","size":7}]}`,
		`{"config":` + config + `,"manifests":[` + entry + `]}`, `{"fsLayers":[]}`, `{"mediaType":"` + ocispec.MediaTypeImageIndex + `"}`,
		`{"manifests":[{"mediaType":"` + ocispec.MediaTypeImageIndex + `","platform":{"os":"unknown","architecture":"unknown"}}]}`, `{"annotations":{"a":1}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, indexErr := manifest.Candidates(raw, ocispec.MediaTypeImageIndex)
		_, manifestErr := manifest.Candidates(raw, ocispec.MediaTypeImageManifest)
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
		`{"rootfs":{"type":"layers","diff_ids":["` + zeroDigest + `"]}}`, `{"rootfs":{"diff_ids":["x"]}}`, `{"os.features":["a"],"variant":"v8"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := manifest.CheckConfig(raw); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("class of %v", err)
		}
	})
}

const zeroDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
