// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container/mounts"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// A sub path is one of the image, whatever links the image has, or it is refused.
func TestSubPathStaysInTheImage(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc/app"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"absolute": "/etc", "out": "../../../../../../etc"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for sub, want := range map[string]string{
		"": "", "etc/app": "etc/app", "absolute/app": "etc/app", "out/app": "etc/app", "../etc": "etc", "etc/passwd": "refused", "absolute/passwd": "refused",
	} {
		got, err := mounts.ImagePaths(state.Container{
			Config:  &cri.ContainerConfig{Mounts: []*cri.Mount{{HostPath: "/"}, {ContainerPath: "/data", ImageSubPath: sub}}},
			Volumes: []state.Volume{{Index: 1, Target: dir}},
		})
		if want == "refused" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v, %v, want it refused", sub, got, err)
			}
			continue
		}
		if err != nil || len(got) != 1 || got[1] != filepath.Join(dir, want) {
			t.Errorf("%q: %v, %v, want %s", sub, got, err, want)
		}
	}
}
