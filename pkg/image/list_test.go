// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

func annotated(name string, annotations map[string]string) ocilayout.Image {
	i := simple(name)
	i.Annotations = annotations
	return i
}

func long(n int) string { return strings.Repeat("x", n) }

func bytesOf(annotations map[string]string) int {
	n := 0
	for k, v := range annotations {
		n += len(k) + len(v)
	}
	return n
}

// TestManyAnnotations: of an image's annotations 32 KiB are shown, the short ones first, and the pull says so.
func TestManyAnnotations(t *testing.T) {
	many := map[string]string{"short": "1"}
	for i := range 3000 {
		many[fmt.Sprintf("many-%04d", i)] = long(1000)
	}
	for name, c := range map[string]struct {
		given map[string]string
		want  []string // nil: all
		warn  bool
	}{
		"few":             {map[string]string{"a": "b"}, nil, false},
		"just fit":        {map[string]string{"a": long(32<<10 - 1)}, nil, false},
		"one too long":    {map[string]string{"a": long(3 << 20), "z": "1"}, []string{"z"}, true},
		"a long key":      {map[string]string{"a" + long(3<<20): "1", "z": "1"}, []string{"z"}, true},
		"many":            {many, append([]string{"short"}, slices.Sorted(maps.Keys(many))[:32]...), true},
		"a byte too many": {map[string]string{"a": long(32<<10 - 3), "z": "12"}, []string{"z"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			r.push(t, "test/notes:v1", annotated("one", c.given))
			id := s.pull(t, r.host()+"/test/notes:v1")
			if warned := strings.Contains(s.Log.String(), "more annotations"); warned != c.warn {
				t.Errorf("warned: %t", warned)
			}
			all, err := s.List(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatalf("images %v, %v", all, err)
			}
			for _, got := range []map[string]string{all[0].Annotations, s.get(t, id).Annotations} {
				if c.want == nil && !maps.Equal(got, c.given) {
					t.Errorf("%d of %d", len(got), len(c.given))
				}
				if keys := slices.Sorted(maps.Keys(got)); c.want != nil && !slices.Equal(keys, slices.Sorted(slices.Values(c.want))) {
					t.Errorf("shown: %.200q", keys)
				}
			}
		})
	}
}

// TestListBounds: all images together have no more annotations than a list holds; each one's are still there.
func TestListBounds(t *testing.T) {
	r, s := newRegistry(t), open(t)
	sum, id := 0, ""
	for i := 0; sum <= 4<<20; i++ {
		notes := map[string]string{"a": long(30 << 10)}
		sum += bytesOf(notes)
		one := annotated("", notes)
		one.Layers, one.Config.Labels = nil, map[string]string{"n": fmt.Sprint(i)}
		ref := fmt.Sprintf("test/notes:v%d", i)
		r.push(t, ref, one)
		id = s.pull(t, r.host()+"/"+ref)
	}
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, img := range all {
		got += bytesOf(img.Annotations)
	}
	if got > 4<<20 {
		t.Errorf("%d bytes of annotations in the list", got)
	}
	if len(s.get(t, id).Annotations) != 1 || !strings.Contains(s.Log.String(), "more annotations than an answer holds") {
		t.Error("one image's are gone, or nothing was said")
	}
}

// TestHostileConfigs: what of a config is in answers and records is bounded, or the image is refused.
func TestHostileConfigs(t *testing.T) {
	volumes := map[string]struct{}{}
	for i := range 1025 {
		volumes[fmt.Sprintf("/v%d", i)] = struct{}{}
	}
	for name, config := range map[string]ocispec.ImageConfig{
		"user":    {User: long(4 << 20)},
		"volumes": {Volumes: volumes},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			r.push(t, "test/one:v1", ocilayout.Image{Config: config})
			_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/one:v1"})
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), name) || len(err.Error()) > 1000 {
				t.Errorf("error %.1000v", err)
			}
		})
	}
	for name, config := range map[string]ocispec.ImageConfig{
		"environment": {Env: []string{"A=" + long(3<<20)}, Cmd: []string{"/x"}},
		"escaped":     {Env: []string{"A=" + strings.Repeat("<", 3<<20)}, Cmd: []string{"/x"}},
		"labels":      {Labels: map[string]string{"a": strings.Repeat("<", 7<<20)}, Cmd: []string{"/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), open(t)
			b := built(t, ocilayout.Image{Config: config})
			plain := bytes.ReplaceAll(b.Blobs[b.Config.Digest], []byte(`\u003c`), []byte("<"))
			r.pushBuilt(t, "test/one:v1", withConfig(t, b, plain))
			id := s.pull(t, r.host()+"/test/one:v1")
			info, err := s.Info(t.Context(), id)
			if n := len(info["info"]); err != nil || n == 0 || n > 12<<20 || !strings.Contains(info["info"], "chainID") {
				t.Errorf("info of %d bytes, %v", n, err)
			}
			if got := s.get(t, id).Config; !slices.Equal(got.Env, config.Env) || !slices.Equal(got.Cmd, config.Cmd) {
				t.Error("what a container is made from is gone")
			}
		})
	}
}

// TestSharedConfig: two manifests of one config are one image; its manifest is that of the last pull, whatever the
// names are.
func TestSharedConfig(t *testing.T) {
	r, s := newRegistry(t), open(t)
	one := simple("one")
	r.push(t, "test/z:v1", one)
	one.Annotations = map[string]string{"is": "another"}
	r.push(t, "test/a:v1", one)
	id := s.pull(t, r.host()+"/test/a:v1")
	first := s.get(t, id).ManifestDigest
	if again := s.pull(t, r.host()+"/test/z:v1"); again != id {
		t.Fatalf("two images: %s, %s", id, again)
	}
	second := s.get(t, id)
	if second.ManifestDigest == first || len(second.Annotations) > 0 || len(second.RepoTags) != 2 {
		t.Errorf("after the second: %+v", second)
	}
	s.pull(t, r.host()+"/test/a:v1")
	for range 20 {
		s.pull(t, r.host()+"/test/a:v1")
		if got := s.get(t, id); got.ManifestDigest != first || got.Annotations["is"] != "another" {
			t.Fatalf("after the third: %+v", got)
		}
	}
}
