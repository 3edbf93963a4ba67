// SPDX-License-Identifier: Apache-2.0

package layers_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/test/linear"
)

// FuzzLayer: a layer, packed or not, unpacks inside its directory or is refused.
func FuzzLayer(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("owners in layers need root")
	}
	for _, h := range []string{"a", "../a", "/a", "a/../../b", ".wh.a", ".wh..wh..opq", "a/.wh..wh..opq", "."} {
		f.Add(linear.Archive(f, tar.Header{Name: h, Typeflag: tar.TypeReg, Size: 1}))
	}
	f.Add([]byte{0x1f, 0x8b})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Add([]byte{})
	root := linear.Dir(f)
	f.Fuzz(func(t *testing.T, layer []byte) {
		outer, err := os.MkdirTemp(root, "outer")
		if err != nil {
			t.Fatal(err)
		}
		into := filepath.Join(outer, "layer")
		if err := os.Mkdir(into, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = layers.Extract(t.Context(), into, bytes.NewReader(layer)) // refused or not, nothing may be outside
		left, err := os.ReadDir(outer)
		if err != nil || len(left) != 1 {
			t.Errorf("beside the layer: %v, %v", left, err)
		}
		if err := os.RemoveAll(outer); err != nil {
			t.Fatal(err)
		}
	})
}
