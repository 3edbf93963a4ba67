// SPDX-License-Identifier: Apache-2.0

// Package imagestore opens image stores, and the root filesystems made from them, for the tests of both packages.
//
// What a test mounts is unmounted and what it opens is closed at its end.
package imagestore

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// Store is an open image store.
type Store struct {
	*image.Service

	RootFS *rootfs.Service
	Root   string
	Log    *await.Output // of both, all levels
}

// NeedRoot skips a test that opens a store if it does not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("overlay mounts and owners in layers need root")
	}
}

// Open opens the store at root, which is made when missing.
func Open(t testing.TB, root string, change ...func(*image.Options)) Store {
	t.Helper()
	s := Store{Root: root, Log: &await.Output{}}
	log := slog.New(slog.NewTextHandler(s.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := image.Options{Root: root, Log: log, InUse: rootfs.Chains(root)}
	for _, c := range change {
		c(&o)
	}
	var err error
	if s.Service, err = image.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.RootFS, err = rootfs.Open(s.Service, root, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.RootFS.Close)
	return s
}

// Load puts an image into the store without a registry and returns its id.
func (s Store) Load(t testing.TB, ref string, img ocilayout.Image) string {
	t.Helper()
	dir := t.TempDir()
	b, err := img.Build()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ocilayout.WriteBuilt(dir, ref, b); err != nil {
		t.Fatal(err)
	}
	if err := s.Preload(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), b.ID()); err != nil {
		t.Fatalf("%v; log: %s", err, s.Log)
	}
	return b.ID()
}

// Mount prepares and mounts a root filesystem and returns its path. The test's end removes it.
func (s Store) Mount(t testing.TB, key string, from rootfs.From) string {
	t.Helper()
	target := filepath.Join(filepath.Dir(s.Root), "containers", key, "rootfs")
	if err := s.RootFS.Prepare(t.Context(), key, from); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.RootFS.Remove(context.Background(), key, target); err != nil {
			t.Error(err)
		}
	})
	if err := s.RootFS.Mount(t.Context(), key, target); err != nil {
		t.Fatal(err)
	}
	return target
}

// Read returns what a file holds.
func Read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Owner returns whose a path is, and its mode. Links are not followed.
func Owner(t testing.TB, path string) sys.OwnerMode {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	o, err := sys.Owner(fi)
	if err != nil {
		t.Fatal(err)
	}
	return o
}
