// SPDX-License-Identifier: Apache-2.0

package layers_test

import (
	"archive/tar"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/test/linear"
)

// TestLayerNamesAreLinear: what a layer's names cost grows with their bytes, however deep they go.
func TestLayerNamesAreLinear(t *testing.T) {
	linear.Check(t, 20_000, func(n int) func() {
		var all []*tar.Header
		for i := range n {
			all = append(all, &tar.Header{Name: strings.Repeat("d/", 100) + strconv.Itoa(i) + "/f", Typeflag: tar.TypeReg},
				&tar.Header{Name: strconv.Itoa(i) + strings.Repeat("/d", 10), Typeflag: tar.TypeDir})
		}
		return func() {
			if _, err := layers.Implied(all); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestLayerNameLimits: a name that no path can be is refused at once; so are more names than fit in memory.
func TestLayerNameLimits(t *testing.T) {
	long := strings.Repeat("d/", 400_000)
	large := &tar.Header{Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 1<<20)}}
	for name, entries := range map[string][]*tar.Header{
		"name":       {{Name: long}},
		"link":       {{Name: "l", Linkname: long, Typeflag: tar.TypeSymlink}},
		"attributes": slices.Repeat([]*tar.Header{large}, 512),
	} {
		if _, err := layers.Implied(entries); !errdefs.IsInvalidArgument(err) || len(err.Error()) > 200 {
			t.Errorf("%s: %.300v", name, err)
		}
	}
	got, err := layers.Implied([]*tar.Header{{Name: "a/b/c"}, {Name: "a/b", Typeflag: tar.TypeDir}, {Name: "x/../y/z"}, {Name: "/abs/f"}, {Name: "top"}})
	if err != nil || strings.Join(got, " ") != "a abs y" {
		t.Errorf("%q, %v", got, err)
	}
}
