// SPDX-License-Identifier: Apache-2.0

package rootfs_test

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// store is the root filesystems of a test, and the image store that they are made from.
type store struct {
	*rootfs.Service
	images imagestore.Store
}

func open(t testing.TB) store {
	t.Helper()
	imagestore.NeedRoot(t)
	images := imagestore.Open(t, filepath.Join(t.TempDir(), "images"))
	return store{images.RootFS, images}
}

func file(path, content string) ocilayout.File {
	return ocilayout.File{Path: path, Content: []byte(content)}
}

// simple is an image of one file, etc/name.
func simple(content string) ocilayout.Image {
	return ocilayout.Image{Layers: []ocilayout.Layer{{{Path: "etc", Dir: true}, file("etc/name", content)}}}
}

func big(n int) ocilayout.Image {
	return ocilayout.Image{Layers: []ocilayout.Layer{{ocilayout.File{Path: "noise", Content: noise(n)}}}}
}

// noise doesn't compress.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}
