// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

func TestPullListRunRemove(t *testing.T) {
	for name, c := range map[string]ocilayout.Compression{"gzip": ocilayout.Gzip, "zstd": ocilayout.Zstd, "none": ocilayout.None} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			in := simple("one")
			in.Compression = c
			desc := r.push(t, "test/one:v1", in)
			ref := r.host() + "/test/one:v1"
			id := s.pull(t, ref)
			img := s.get(t, ref)
			byDigest := r.host() + "/test/one@" + desc.Digest.String()
			if img.ID != id || !slices.Equal(img.RepoTags, []string{ref}) || !slices.Equal(img.RepoDigests, []string{byDigest}) {
				t.Errorf("image %+v, want id %s, tag %s, digest %s", img, id, ref, byDigest)
			}
			if img.User != "1000:1000" || !slices.Equal(img.Config.Cmd, []string{"/bin/tool"}) || img.Size == 0 || img.Pinned {
				t.Errorf("image %+v", img)
			}
			root := s.Mount(t, "c1", rootfs.From{ImageID: id})
			if got := imagestore.Read(t, filepath.Join(root, "etc/name")); got != "one" {
				t.Errorf("content %q", got)
			}
			if err := os.WriteFile(filepath.Join(root, "new"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.RootFS.Remove(t.Context(), "c1", root); err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(t.Context(), byDigest); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), ref); !errdefs.IsNotFound(err) {
				t.Errorf("after removal: %v", err)
			}
			if got := s.Log.String(); strings.Contains(got, "level=WARN") || strings.Contains(got, "level=ERROR") {
				t.Errorf("log: %s", got)
			}
		})
	}
}

func TestPullNotFound(t *testing.T) {
	r, s := newRegistry(t), open(t)
	ref := r.host() + "/test/none:v1"
	_, err := s.Pull(t.Context(), image.Pull{Ref: ref})
	if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), ref) {
		t.Errorf("error %v", err)
	}
}
