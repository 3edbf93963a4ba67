// SPDX-License-Identifier: Apache-2.0

package layers_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/test/linear"
)

// TestLayersAreLinear unpacks layers of many entries of one kind.
func TestLayersAreLinear(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners in layers need root")
	}
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
			dir := linear.Dir(t)
			linear.Check(t, 300, func(n int) func() {
				var entries []tar.Header
				for i := range n {
					entries = append(entries, entry(i))
				}
				layer := linear.Archive(t, entries...)
				return func() {
					into, err := os.MkdirTemp(dir, "layer")
					if err == nil {
						err = errors.Join(layers.Extract(t.Context(), into, bytes.NewReader(layer)), os.RemoveAll(into))
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}
