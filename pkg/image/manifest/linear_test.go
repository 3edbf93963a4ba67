// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"encoding/json"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/manifest"
	"github.com/cri-shim/cri-shim/test/linear"
)

const digestOf = `"digest":"` + zeroDigest + `","size":7`

// TestDocumentsAreLinear: whoever makes an image chooses how large its documents are, up to a bound.
func TestDocumentsAreLinear(t *testing.T) {
	head := `{"config":{"mediaType":"application/vnd.oci.image.config.v1+json",` + digestOf + `},`
	entry := `{"mediaType":"application/vnd.oci.image.manifest.v1+json",` + digestOf
	for name, c := range map[string]struct{ head, item, tail, mediaType string }{
		"layers":        {head + `"layers":[`, `{"mediaType":"application/vnd.oci.image.layer.v1.tar%.0[1]d",` + digestOf + `}`, `]}`, ocispec.MediaTypeImageManifest},
		"annotations":   {head + `"annotations":{`, `"key-%d":"some value"`, `}}`, ocispec.MediaTypeImageManifest},
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
				raw := linear.List(c.head, c.item, c.tail, n)
				if !json.Valid(raw) {
					t.Fatalf("not JSON: %.300s", raw)
				}
				return func() { _, _ = manifest.Candidates(raw, c.mediaType) }
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
				raw := linear.List(c.head, c.item, c.tail, n)
				if !json.Valid(raw) {
					t.Fatalf("not JSON: %.300s", raw)
				}
				return func() { _ = manifest.CheckConfig(raw) }
			})
		})
	}
}
