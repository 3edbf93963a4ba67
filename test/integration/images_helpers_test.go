// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// emptyImage is the name of an image without a program.
const emptyImage = "cri-shim.test/empty:1"

// writeLayout adds an image layout to a preload directory.
func writeLayout(t *testing.T, preload, ref string, i ocilayout.Image) {
	t.Helper()
	name := strings.NewReplacer("/", "-", ":", "-").Replace(ref)
	if _, err := ocilayout.Write(filepath.Join(preload, name), ref, i); err != nil {
		t.Fatal(err)
	}
}

// fileImage has one file and says nothing else.
func fileImage(path, content string) ocilayout.Image {
	var l ocilayout.Layer
	parts := strings.Split(path, "/")
	for i := 1; i < len(parts); i++ {
		l = append(l, ocilayout.File{Path: strings.Join(parts[:i], "/"), Dir: true})
	}
	return ocilayout.Image{Layers: []ocilayout.Layer{append(l, ocilayout.File{Path: path, Content: []byte(content)})}}
}

const testImage = nodetest.TestImage

func testboxImage(t testing.TB) ocilayout.Image { return nodetest.TestboxImage(t) }

// startPreloaded starts a daemon with the images of a directory; ref is one of them.
func startPreloaded(t *testing.T, preload, ref string) *nodetest.Node {
	t.Helper()
	d := nodetest.Start(t, fmt.Sprintf("[image]\npreload_dir = %q\n", preload))
	d.AwaitImage(t, ref)
	return d
}
