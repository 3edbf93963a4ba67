// SPDX-License-Identifier: Apache-2.0

package confine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
)

const someLabel = "system_u:object_r:container_file_t:s0:c1,c2"

// relabelled is a tree with a link out of it and a file system below it that has no labels.
func relabelled(t *testing.T) (dir, outside string) {
	t.Helper()
	dir, outside = t.TempDir(), t.TempDir()
	for _, sub := range []string{"a/b", "c", "proc", "z"} {
		must(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "a/b/file"), nil, 0o600))
	must(t, os.Symlink(outside, filepath.Join(dir, "c/link")))
	if err := unix.Lsetxattr(filepath.Join(dir, "z"), "security.selinux", []byte("old"), 0); err != nil {
		t.Skip("needs to write labels: ", err)
	}
	must(t, unix.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(filepath.Join(dir, "proc"), unix.MNT_DETACH)) })
	return dir, outside
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func labelOf(path string) string {
	raw := make([]byte, 200)
	n, err := unix.Lgetxattr(path, "security.selinux", raw)
	if err != nil {
		return ""
	}
	return string(raw[:n])
}

// All below a path is relabelled, whatever it was reached by, and nothing that links lead to.
func TestRelabelTree(t *testing.T) {
	dir, outside := relabelled(t)
	by := filepath.Join(t.TempDir(), "by")
	must(t, os.Symlink(dir, by))
	must(t, confine.RelabelTree(t.Context(), by, someLabel))
	for _, path := range []string{"", "a", "a/b", "a/b/file", "c", "c/link", "z"} {
		if got := labelOf(filepath.Join(dir, path)); got != someLabel {
			t.Errorf("%q has the label %q", path, got)
		}
	}
	if got := labelOf(outside); got != "" {
		t.Errorf("what a link leads to has the label %q", got)
	}
}

// The system's own paths are refused, through a link as well.
func TestRelabelRefusesSystemPaths(t *testing.T) {
	by := filepath.Join(t.TempDir(), "by")
	must(t, os.Symlink("/media", by))
	if err := confine.RelabelTree(t.Context(), by, someLabel); err == nil || !strings.Contains(err.Error(), "/media is not allowed") {
		t.Errorf("%v, want a refusal", err)
	}
}

// A relabelling ends with its context, and the label of the root says that it was not finished.
func TestRelabelEndsWithContext(t *testing.T) {
	dir, _ := relabelled(t)
	must(t, unix.Lsetxattr(dir, "security.selinux", []byte("old"), 0))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	err := confine.RelabelTree(ctx, dir, someLabel)
	if !errdefs.IsUnavailable(err) || !errors.Is(err, why) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v, want that %s is unavailable and why", err, dir)
	}
	if got := labelOf(dir); got != "old" {
		t.Errorf("the root has the label %q", got)
	}
}

// Without SELinux everything about labels is a no-op.
func TestLabels(t *testing.T) {
	if testing.Short() {
		t.Skip("may look at the machine's policy")
	}
	l, err := confine.NewLabels(&cri.SELinuxOption{Level: "s0:c1,c2"})
	if err != nil {
		t.Fatal(err)
	}
	defer confine.ReleaseLabels(l)
	if err := confine.HoldLabels(l); err != nil {
		t.Error(err)
	}
	if err := confine.Relabel(t.Context(), t.TempDir(), confine.Labels{}); err != nil {
		t.Error(err)
	}
}
