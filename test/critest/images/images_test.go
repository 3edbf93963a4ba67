// SPDX-License-Identifier: Apache-2.0

package images_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cri-shim/cri-shim/test/critest/images"
	"github.com/cri-shim/cri-shim/test/registry"
)

// TestBuild builds every image and pushes it, twice: critest names one image by digest, so digests must not move.
func TestBuild(t *testing.T) {
	cache, err := filepath.Abs("../../../.cache/critest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cache + "/nnp"); err != nil {
		t.Skip("the parts of critest's images are not in .cache yet; make critest fetches them")
	}
	o := images.Options{Cache: cache, Pause: "../../../cmd/pause/pause_" + runtime.GOARCH, Say: t.Logf}
	r, err := registry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first := map[string]string{}
	for round := range 2 {
		list, err := images.Build(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range list {
			d, err := img.Push(t.Context(), r.URL)
			if err != nil {
				t.Fatal(err)
			}
			if name := img.Names[0]; round == 0 {
				first[name] = d.String()
				t.Log(name, d)
			} else if first[name] != d.String() {
				t.Errorf("%s: digest %s, then %s", name, first[name], d)
			}
		}
	}
}
