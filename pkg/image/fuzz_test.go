// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/linear"
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

// FuzzArchive: an archive to preload is read or refused.
func FuzzArchive(f *testing.F) {
	imagestore.NeedRoot(f)
	f.Add(manyImages(f, 1, 1))
	f.Add(manyImages(f, 0, 0))
	f.Add(linear.Archive(f, tar.Header{Name: "oci-layout", Typeflag: tar.TypeReg, Size: 1}))
	f.Add([]byte{})
	dir := linear.Dir(f)
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
