// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/imagestore"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

func link(path, to string) ocilayout.File     { return ocilayout.File{Path: path, Symlink: to} }
func hardlink(path, to string) ocilayout.File { return ocilayout.File{Path: path, Hardlink: to} }

// TestHostileLayers: nothing a layer says reaches outside of it, unpacked or seen through the root filesystem.
func TestHostileLayers(t *testing.T) {
	r, s := newRegistry(t), open(t)
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	for name, layers := range map[string][]ocilayout.Layer{
		"dots":                   {{file(up+outside+"/made", "x")}},
		"absolute":               {{file(outside+"/made", "x")}},
		"dots inside":            {{dir("a"), file("a/../../"+up+outside+"/made", "x")}},
		"symlink then file":      {{link("out", outside), file("out/made", "x")}},
		"symlink up then file":   {{link("out", up+outside), file("out/made", "x")}},
		"symlink over victim":    {{link("v", victim), file("v", "overwritten")}},
		"symlink in lower layer": {{link("out", outside)}, {file("out/made", "x")}},
		"directory over symlink": {{link("out", outside)}, {dir("out"), file("out/made", "x")}},
		"hardlink absolute":      {{hardlink("h", victim), file("h", "overwritten")}},
		"hardlink dots":          {{hardlink("h", up+victim), file("h", "overwritten")}},
		"hardlink by symlink":    {{link("out", outside), hardlink("h", "out/victim"), file("h", "overwritten")}},
		"whiteout by symlink":    {{link("out", outside)}, {file("out/.wh.victim", "")}},
		"whiteout with dots":     {{file(up+outside+"/.wh.victim", "")}},
		"opaque by symlink":      {{link("out", outside)}, {file("out/.wh..wh..opq", "")}},
		"whiteout of dotdot":     {{file(".wh...", "")}},
		"chmod by symlink":       {{link("out", outside), ocilayout.File{Path: "out/", Dir: true, Mode: 0o777, UID: 4242}}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := ocilayout.Image{Layers: layers}.Build()
			if err != nil {
				t.Fatal(err)
			}
			repo := "hostile/" + strings.ReplaceAll(name, " ", "-")
			r.pushBuilt(t, repo+":v1", b)
			before := imagestore.Owner(t, outside)
			id, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/" + repo + ":v1"})
			if err == nil {
				root := s.Mount(t, digest.FromString(name).Encoded(), rootfs.From{ImageID: id})
				if fi, err := os.Lstat(root); err != nil || !fi.IsDir() {
					t.Errorf("root filesystem: %v", err)
				}
			} else {
				t.Logf("refused: %v", err)
			}
			if got := imagestore.Read(t, victim); got != "untouched" {
				t.Errorf("a file outside says %q", got)
			}
			if _, err := os.Lstat(filepath.Join(outside, "made")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file was made outside: %v", err)
			}
			if got := imagestore.Owner(t, outside); got != before {
				t.Errorf("a directory outside changed to %+v", got)
			}
			if got := imagestore.Owner(t, victim); got != (sys.OwnerMode{Mode: 0o600}) {
				t.Errorf("a file outside changed to %+v", got)
			}
		})
	}
}

// TestLayersOnTopOfEachOther: whiteouts, opaque directories, replaced types, and directories that only a lower layer
// describes.
func TestLayersOnTopOfEachOther(t *testing.T) {
	r, s := newRegistry(t), open(t)
	sticky := ocilayout.File{Path: "tmp", Dir: true, Mode: 0o777 | fs.ModeSticky}
	owned := ocilayout.File{Path: "home/me", Dir: true, Mode: 0o700, UID: 1000, GID: 1000}
	r.push(t, "test/img:v1", ocilayout.Image{Layers: []ocilayout.Layer{
		{sticky, dir("home"), owned, dir("d"), file("d/old", "old"), file("gone", "gone"), file("kept", "kept"), dir("was-dir"), file("was-dir/f", "f"), dir("re")},
		{file("tmp/new", "new"), file("home/me/mine", "mine"), file("d/.wh..wh..opq", ""), file("d/new", "new"), file(".wh.gone", ""), file("was-dir", "now a file"), file(".wh.re", "")},
		{file("home/me/deep/er", "x"), file("re/born", "x"), {Path: "set", Mode: 0o755 | fs.ModeSetuid, UID: 5}},
	}})
	root := s.Mount(t, "key", rootfs.From{ImageID: s.pull(t, r.host()+"/test/img:v1")})
	at := func(p string) string { return filepath.Join(root, p) }
	for path, want := range map[string]string{"tmp/new": "new", "home/me/mine": "mine", "d/new": "new", "kept": "kept", "was-dir": "now a file", "re/born": "x"} {
		if got := imagestore.Read(t, at(path)); got != want {
			t.Errorf("%s is %q", path, got)
		}
	}
	for _, path := range []string{"gone", "d/old"} {
		if _, err := os.Lstat(at(path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for path, want := range map[string]sys.OwnerMode{
		"tmp":          {Mode: 0o777 | fs.ModeSticky},
		"home/me":      {UID: 1000, GID: 1000, Mode: 0o700},
		"home/me/deep": {Mode: 0o755},
		"re":           {Mode: 0o755},
		"set":          {UID: 5, Mode: 0o755 | fs.ModeSetuid},
	} {
		if got := imagestore.Owner(t, at(path)); got != want {
			t.Errorf("%s is %+v, want %+v", path, got, want)
		}
	}
}

// TestWrongDiffID: blobs are what their digests say, but the config says they unpack to something else.
func TestWrongDiffID(t *testing.T) {
	r, s := newRegistry(t), open(t)
	good, err := simple("good").Build()
	if err != nil {
		t.Fatal(err)
	}
	bad, err := simple("evil").Build()
	if err != nil {
		t.Fatal(err)
	}
	// A manifest with the good image's config and the bad one's layers.
	raw := string(bad.Blobs[bad.Manifest.Digest])
	raw = strings.ReplaceAll(raw, bad.Config.Digest.String(), good.Config.Digest.String())
	bad.Blobs[good.Config.Digest] = good.Blobs[good.Config.Digest]
	bad.Manifest.Digest, bad.Manifest.Size = digest.FromString(raw), int64(len(raw))
	bad.Blobs[bad.Manifest.Digest] = []byte(raw)
	r.pushBuilt(t, "test/bad:v1", bad)
	r.pushBuilt(t, "test/good:v1", good)
	if _, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/bad:v1"}); err == nil || !strings.Contains(err.Error(), "diff id") {
		t.Errorf("error %v", err)
	}
	if _, err := s.Get(t.Context(), good.ID()); err == nil {
		t.Error("the image is visible")
	}
	id := s.pull(t, r.host()+"/test/good:v1")
	if got := imagestore.Read(t, filepath.Join(s.Mount(t, "key", rootfs.From{ImageID: id}), "etc/name")); got != "good" {
		t.Errorf("content %q", got)
	}
}
