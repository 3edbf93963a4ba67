// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image"
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

// FuzzHosts: whatever is in a hosts.toml gives hosts to ask or an error.
func FuzzHosts(f *testing.F) {
	for _, text := range []string{
		"", "server = \"https://mirror\"\n", "[host.\"http://a:1/v2\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n",
		"[host.\"https://b\"]\nca = [\"x\"]\nclient = [[\"c\", \"k\"]]\noverride_path = true\ndial_timeout = \"1s\"\n[host.\"https://b\".header]\nx = [\"y\"]\n",
		"server = 1", "[host]", "[host.\"\"]", "[[host]]",
	} {
		f.Add(text)
	}
	root := f.TempDir()
	dir := filepath.Join(root, "registry.test")
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		hosts, err := image.Hosts(t.Context(), root, "registry.test")
		if err == nil && len(hosts) == 0 {
			t.Errorf("nobody to ask, and no error, with %q", text)
		}
	})
}
