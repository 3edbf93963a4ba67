// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// TestDeepLayers: an image's directories, as deep as paths can be, are unpacked, measured and removed with few
// descriptors; deeper ones are refused.
func TestDeepLayers(t *testing.T) {
	r, s := newRegistry(t), open(t)
	r.push(t, "test/deep:v1", ocilayout.Image{Layers: []ocilayout.Layer{{file(strings.Repeat("d/", 1900)+"f", "x")}}})
	fewDescriptors(t, 100)
	id := s.pull(t, r.host()+"/test/deep:v1")
	if use, _, err := s.DiskUse(t.Context()); err != nil || use.Inodes < 1900 {
		t.Errorf("%+v, %v", use, err)
	}
	if err := s.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.Root, "layers", "snapshots")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	r.push(t, "test/deeper:v1", ocilayout.Image{Layers: []ocilayout.Layer{{file(strings.Repeat("d/", 400_000)+"f", "x")}}})
	_, err := s.Pull(t.Context(), image.Pull{Ref: r.host() + "/test/deeper:v1"})
	if !errdefs.IsInvalidArgument(err) || len(err.Error()) > 4096 {
		t.Errorf("error of %d bytes: %.300s", len(err.Error()), err)
	}
	if left, err := os.ReadDir(filepath.Join(s.Root, "layers", "snapshots")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// fewDescriptors lowers the limit to a few above what the test has open.
func fewDescriptors(t *testing.T, few int) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open) + few), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
}
