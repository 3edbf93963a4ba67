// SPDX-License-Identifier: Apache-2.0

package images_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/critest/images"
)

// The digest that a critest has to name for its spec "public image with digest" to pass with our images.
var byDigest = map[string]string{"amd64": "sha256:7d0a245983e5cdc8e7a967c5f331e6aebf3eee2f9f8bca328ace86ee97f28beb"}

// TestBuild checks the list of images and that the one that critest names by digest does not move.
func TestBuild(t *testing.T) {
	cache, err := filepath.Abs("../../../.cache/critest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, "nnp")); err != nil {
		t.Skip("the parts of critest's images are not in .cache yet; make critest fetches them")
	}
	list, err := images.Build(images.Options{Cache: cache, Pause: "../../../cmd/pause/pause_" + runtime.GOARCH, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, img := range list {
		names = append(names, img.Names...)
		if img.Names[0] != images.ByDigest {
			continue
		}
		built, err := img.Build()
		if err != nil {
			t.Fatal(err)
		}
		if want := byDigest[runtime.GOARCH]; want != "" && built.Manifest.Digest.String() != want {
			t.Errorf("%s is %s, and critests were built for %s", images.ByDigest, built.Manifest.Digest, want)
		}
	}
	slices.Sort(names)
	if twice := len(names) - len(slices.Compact(slices.Clone(names))); twice != 0 || len(names) != 28 {
		t.Errorf("%d names, %d of them twice, want 28 different ones:\n%s", len(names), twice, strings.Join(names, "\n"))
	}
	for _, n := range names {
		if host, _, _ := strings.Cut(n, "/"); !slices.Contains(images.Registries, host) {
			t.Errorf("%s is in none of the mirrored registries", n)
		}
	}
}
