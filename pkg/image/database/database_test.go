// SPDX-License-Identifier: Apache-2.0

package database_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/database"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/imagestore"
)

var blob = []byte("a blob")

// open opens the databases below root until the test ends, or close is called.
func open(t *testing.T, root string) (d *database.DB, ctx context.Context, log *await.Output) {
	t.Helper()
	imagestore.NeedRoot(t)
	log = &await.Output{}
	ctx = namespaces.WithNamespace(t.Context(), "test")
	d, err := database.Open(ctx, root, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, ctx, log
}

// fill makes databases with a blob and a layer in them, and closes them.
func fill(t *testing.T, root string) {
	t.Helper()
	d, ctx, _ := open(t, root)
	desc := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	if err := content.WriteBlob(ctx, d.Meta.ContentStore(), "ref", bytes.NewReader(blob), desc); err != nil {
		t.Fatal(err)
	}
	layers := d.Meta.Snapshotter(database.Snapshotter)
	if _, err := layers.Prepare(ctx, "key", ""); err != nil {
		t.Fatal(err)
	}
	if err := layers.Commit(ctx, "layer", "key"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, pattern ...string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(pattern...))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReopen(t *testing.T) {
	root := t.TempDir()
	fill(t, root)
	d, ctx, log := open(t, root)
	if _, err := d.Meta.ContentStore().Info(ctx, digest.FromBytes(blob)); err != nil {
		t.Error(err)
	}
	if _, err := d.Meta.Snapshotter(database.Snapshotter).Stat(ctx, "layer"); err != nil {
		t.Error(err)
	}
	if log.String() != "" {
		t.Errorf("log: %s", log)
	}
}

// TestInUse: a database that another process has open is not damaged.
func TestInUse(t *testing.T) {
	root := t.TempDir()
	_, ctx, log := open(t, root)
	if _, err := database.Open(ctx, root, slog.New(slog.NewTextHandler(log, nil))); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error %v", err)
	}
	if aside := entries(t, root, "damaged-*"); len(aside) > 0 || log.String() != "" {
		t.Errorf("set aside %q, log: %s", aside, log)
	}
}

// TestDamage: both databases and the layers are set aside as they were, also if only one of them is damaged. The blobs
// stay.
func TestDamage(t *testing.T) {
	text := func(f string) error { return os.WriteFile(f, bytes.Repeat([]byte("not a database\n"), 9999), 0o600) }
	cut := func(f string) error { return os.Truncate(f, 20000) }
	for _, file := range []string{"metadata.db", "layers/metadata.db"} {
		for what, damage := range map[string]func(string) error{"missing": os.Remove, "text": text, "cut": cut} {
			t.Run(what+" "+filepath.Dir(file), func(t *testing.T) {
				root := t.TempDir()
				fill(t, root)
				if err := damage(filepath.Join(root, file)); err != nil {
					t.Fatal(err)
				}
				d, ctx, log := open(t, root)
				if _, err := d.Meta.Snapshotter(database.Snapshotter).Stat(ctx, "layer"); !errdefs.IsNotFound(err) {
					t.Errorf("a layer in the new store: %v", err)
				}
				if !strings.Contains(log.String(), "set aside") {
					t.Errorf("log: %s", log)
				}
				if left := entries(t, root, "damaged-*/layers/snapshots/*"); len(left) != 1 {
					t.Errorf("layers set aside: %q", left)
				}
				if left := entries(t, root, "content/blobs/sha256/*"); len(left) != 1 {
					t.Errorf("blobs: %q", left)
				}
			})
		}
	}
}

// TestUnreadable: what this machine can't read now may be whole. It stays where it is.
func TestUnreadable(t *testing.T) {
	imagestore.NeedRoot(t)
	root := t.TempDir()
	if err := os.Symlink("metadata.db", filepath.Join(root, "metadata.db")); err != nil {
		t.Fatal(err)
	}
	var path *fs.PathError
	if _, err := database.Open(t.Context(), root, slog.New(slog.DiscardHandler)); !errors.As(err, &path) {
		t.Errorf("error %v", err)
	}
	if aside := entries(t, root, "damaged-*"); len(aside) > 0 {
		t.Errorf("set aside %q", aside)
	}
}

// TestRecover: a download without a name and a layer without a record make room, and what is on record stays.
func TestRecover(t *testing.T) {
	root := t.TempDir()
	fill(t, root)
	d, ctx, _ := open(t, root)
	layer := entries(t, database.SnapshotDir(root), "*")
	ingests := filepath.Join(root, "content/ingest")
	for _, dir := range []string{filepath.Join(ingests, "nameless"), filepath.Join(ingests, "named"), filepath.Join(database.SnapshotDir(root), "77")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(ingests, "named/ref"), []byte("test/ref"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, ingests, "*"); len(left) != 1 || filepath.Base(left[0]) != "named" {
		t.Errorf("downloads %q", left)
	}
	left := entries(t, database.SnapshotDir(root), "*")
	stray := entries(t, database.SnapshotDir(root), "stray-*")
	if len(left) != 2 || len(stray) != 1 || !slices.Contains(left, layer[0]) {
		t.Errorf("layers %q", left)
	}
	if err := d.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, database.SnapshotDir(root), "*"); !slices.Equal(left, layer) {
		t.Errorf("layers after the clean-up: %q", left)
	}
}

// TestCleanup removes what was set aside before the last boot, when nothing can run on its layers any more. An empty
// store has nothing to clean up.
func TestCleanup(t *testing.T) {
	root := t.TempDir()
	d, ctx, _ := open(t, root)
	boot, err := sys.BootID()
	if err != nil {
		t.Fatal(err)
	}
	now := filepath.Join(root, "damaged-"+boot+"-1")
	for _, dir := range []string{now, filepath.Join(root, "damaged-of-another-boot")} {
		if err := os.MkdirAll(filepath.Join(dir, "layers"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, root, "damaged-*"); !slices.Equal(left, []string{now}) {
		t.Errorf("left %q", left)
	}
}
