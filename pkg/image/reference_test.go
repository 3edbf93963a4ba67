// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

func TestReferenceForms(t *testing.T) {
	s, dir := open(t), t.TempDir()
	desc, err := ocilayout.Write(filepath.Join(dir, "a"), "docker.io/library/busybox:latest", simple("busybox"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ocilayout.Write(filepath.Join(dir, "b"), "registry.example:5000/team/app:v2", simple("app")); err != nil {
		t.Fatal(err)
	}
	if err := s.Preload(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	box, app := s.get(t, "busybox").ID, s.get(t, "registry.example:5000/team/app:v2").ID
	if box == app {
		t.Fatal("one image")
	}
	digest := desc.Digest.String()
	for ref, want := range map[string]string{
		"busybox":                                   box,
		"busybox:latest":                            box,
		"library/busybox":                           box,
		"docker.io/busybox":                         box,
		"docker.io/library/busybox:latest":          box,
		"busybox@" + digest:                         box,
		"busybox:latest@" + digest:                  box,
		"busybox:any@" + digest:                     box,
		"docker.io/library/busybox@" + digest:       box,
		box:                                         box,
		strings.TrimPrefix(box, "sha256:"):          box,
		strings.TrimPrefix(box, "sha256:")[:12]:     box,
		box[:19]:                                    box,
		"registry.example:5000/team/app:v2":         app,
		app:                                         app,
		"registry.example:5000/team/app":            "not found",
		"registry.example:5000/team/app:v3":         "not found",
		"registry.example:5000/team/app@" + digest:  "not found",
		"busybox:1":                                 "not found",
		"nothing":                                   "not found",
		"sha256:" + strings.Repeat("0", 64):         "not found",
		strings.Repeat("0", 64):                     "not found",
		"busybox@sha256:" + strings.Repeat("0", 64): "not found",
		"":                     "invalid",
		"Uppercase":            "invalid",
		"a b":                  "invalid",
		"busybox@sha256:short": "invalid",
		"sha256:":              "invalid",
		"../etc/passwd":        "invalid",
	} {
		img, err := s.Get(t.Context(), ref)
		switch want {
		case "not found":
			if !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("%q: %+v, %v", ref, img.ID, err)
			}
		case "invalid":
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %+v, %v", ref, img.ID, err)
			}
		default:
			if err != nil || img.ID != want {
				t.Errorf("%q: %q, %v", ref, img.ID, err)
			}
		}
	}
}

// TestNames: what is one image, what moves, and what goes together.
func TestNames(t *testing.T) {
	r, s := newRegistry(t), open(t)
	gz, zst := simple("same"), simple("same")
	zst.Compression = ocilayout.Zstd
	a := r.push(t, "test/a:v1", gz)
	r.push(t, "test/a:v2", gz)
	b := r.push(t, "mirror/b:v1", zst)
	at := func(name string) string { return r.host() + "/" + name }
	id := s.pull(t, at("test/a:v1"))
	if again := s.pull(t, at("test/a:v2")); again != id {
		t.Errorf("second tag has id %s, not %s", again, id)
	}
	if zstd := s.pull(t, at("mirror/b:v1")); zstd != id {
		t.Errorf("zstd twin has id %s, not %s", zstd, id)
	}
	if again := s.pull(t, at("test/a@"+a.Digest.String())); again != id {
		t.Errorf("by digest: %s", again)
	}
	img := s.get(t, id)
	tags := []string{at("mirror/b:v1"), at("test/a:v1"), at("test/a:v2")}
	digests := []string{at("mirror/b@" + b.Digest.String()), at("test/a@" + a.Digest.String())}
	if !slices.Equal(img.RepoTags, tags) || !slices.Equal(img.RepoDigests, digests) {
		t.Errorf("tags %q digests %q, want %q %q", img.RepoTags, img.RepoDigests, tags, digests)
	}
	// The tag moves on: the old image keeps its digest.
	r.push(t, "test/a:v1", simple("newer"))
	newer := s.pull(t, at("test/a:v1"))
	if newer == id || slices.Contains(s.get(t, id).RepoTags, at("test/a:v1")) || len(s.get(t, id).RepoDigests) != 2 {
		t.Errorf("after the tag moved: old image %+v", s.get(t, id))
	}
	if err := s.Remove(t.Context(), at("mirror/b:v1")); err != nil {
		t.Fatal(err)
	}
	imgs, err := s.List(t.Context())
	if err != nil || len(imgs) != 1 || imgs[0].ID != newer {
		t.Errorf("after removal of one name: %+v, %v", imgs, err)
	}
	if err := s.Remove(t.Context(), id); !errdefs.IsNotFound(err) {
		t.Errorf("removed again: %v", err)
	}
}

func TestPullByDigestOnly(t *testing.T) {
	r, s := newRegistry(t), open(t)
	d := r.push(t, "test/a:v1", simple("x"))
	ref := r.host() + "/test/a@" + d.Digest.String()
	img := s.get(t, s.pull(t, ref))
	if len(img.RepoTags) != 0 || !slices.Equal(img.RepoDigests, []string{ref}) {
		t.Errorf("tags %q digests %q", img.RepoTags, img.RepoDigests)
	}
	if _, err := s.Pull(t.Context(), image.Pull{Ref: "bad name"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("bad name: %v", err)
	}
}
