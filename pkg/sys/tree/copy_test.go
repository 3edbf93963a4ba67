// SPDX-License-Identifier: Apache-2.0

package tree_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// listing says all that a copy has to keep of a tree.
func listing(t *testing.T, root string) string {
	t.Helper()
	var out strings.Builder
	links := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		fmt.Fprintf(&out, "%s %o %d:%d %d.%d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if links[st.Ino] == "" {
				links[st.Ino] = rel
			}
			fmt.Fprintf(&out, " %d %.20q =%s", len(data), data, links[st.Ino])
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&out, " -> %s", target)
		default:
			fmt.Fprintf(&out, " %d", st.Rdev)
		}
		buf := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "trusted.cri-test", buf); err == nil {
			fmt.Fprintf(&out, " %q", buf[:n])
		}
		out.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestCopyTree: what is in an image can be anything.
func TestCopyTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for owners")
	}
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	check := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(from, name) }
	check(os.MkdirAll(in("closed/deep"), 0o755), os.Mkdir(in("sticky"), 0o755), os.Mkdir(in("volume"), 0o755))
	check(os.WriteFile(in("closed/deep/file"), []byte("content"), 0o600), os.Chown(in("closed/deep/file"), 7, 8), os.Chmod(in("closed/deep/file"), 0o6755))
	check(os.Link(in("closed/deep/file"), in("again")), os.Symlink("/etc/passwd", in("link")), os.Symlink("nowhere", in("dangling")))
	check(unix.Mkfifo(in("fifo"), 0o640), unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0))
	check(os.WriteFile(in("volume/hidden"), nil, 0o600), os.WriteFile(in("empty"), nil, 0o444))
	check(unix.Lsetxattr(in("closed"), "trusted.cri-test", []byte("a"), 0), unix.Lsetxattr(in("link"), "trusted.cri-test", []byte("b"), 0))
	sparse, err := os.Create(in("sparse"))
	check(err)
	_, err = sparse.WriteAt([]byte("in the middle"), 5<<20)
	check(err, sparse.Truncate(1<<30), sparse.Close())
	check(os.Lchown(in("link"), 9, 9), os.Chown(in("sticky"), 1, 2), os.Chmod(in("sticky"), os.ModeSticky|0o777), os.Chmod(in("closed"), 0))
	old := time.Unix(1e9, 123)
	for _, name := range []string{"closed/deep", "closed", "sticky", "empty", ""} {
		check(os.Chtimes(in(name), old, old))
	}
	check(tree.Copy(t.Context(), from, to, map[string]bool{"volume": true}))
	if _, err := os.Lstat(filepath.Join(to, "volume/hidden")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is to be empty: %v", err)
	}
	var st unix.Stat_t
	check(unix.Stat(filepath.Join(to, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the hole takes %d bytes", st.Blocks*512)
	}
	check(os.Remove(in("volume/hidden")), os.Chtimes(in("volume"), old, old), os.Chtimes(filepath.Join(to, "volume"), old, old))
	check(os.Remove(in("sparse")), os.Remove(filepath.Join(to, "sparse")), os.Chtimes(from, old, old), os.Chtimes(to, old, old))
	if a, b := listing(t, from), listing(t, to); a != b {
		t.Errorf("from:\n%s\nto:\n%s", a, b)
	}
	file := filepath.Join(t.TempDir(), "file")
	check(tree.Copy(t.Context(), in("again"), file, nil))
	if data, err := os.ReadFile(file); err != nil || string(data) != "content" {
		t.Errorf("a file by itself: %q, %v", data, err)
	}
}

func TestCopyTreeEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.Copy(ctx, t.TempDir(), filepath.Join(t.TempDir(), "to"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("copied after its context had ended: %v", err)
	}
}

// TestCopyTreeOfAnyShape copies what no path can name and what has very many links, with few descriptors.
func TestCopyTreeOfAnyShape(t *testing.T) {
	for name, c := range map[string]struct {
		make   func(dir string)
		inodes uint64
	}{
		"50,000 levels":      {func(dir string) { deepen(t, dir, 50_000, "d") }, 1 + 50_000 + 500},
		"names of 255 bytes": {func(dir string) { deepen(t, dir, 1000, strings.Repeat("n", 255)) }, 1 + 1000 + 10},
		"wide": {func(dir string) {
			for i := range 3000 {
				must(t, os.MkdirAll(filepath.Join(dir, strconv.Itoa(i)+strings.Repeat("w", 200), "sub"), 0o755))
			}
		}, 1 + 6000},
		"links": {func(dir string) {
			for i := range 2000 {
				sub := filepath.Join(dir, strconv.Itoa(i%10))
				must(t, os.MkdirAll(sub, 0o755))
				file := filepath.Join(sub, strconv.Itoa(i))
				must(t, os.WriteFile(file, nil, 0o600))
				must(t, os.Link(file, filepath.Join(dir, "linked"+strconv.Itoa(i))))
			}
		}, 1 + 10 + 2000},
	} {
		t.Run(name, func(t *testing.T) {
			top := inMemory(t)
			from, to := filepath.Join(top, "from"), filepath.Join(top, "to")
			must(t, os.Mkdir(from, 0o755))
			c.make(from)
			fewDescriptors(t, 200)
			must(t, tree.Copy(t.Context(), from, to, nil))
			if got, err := tree.DiskUsage(t.Context(), to, nil); err != nil || got.Inodes != c.inodes {
				t.Errorf("copied %+v, %v; want %d inodes", got, err, c.inodes)
			}
			if left, err := os.ReadDir(top); err != nil || len(left) != 2 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

// TestCopyTreeBeyondTheLimitOfLinks copies a file with as many links as the filesystem allows.
func TestCopyTreeBeyondTheLimitOfLinks(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	from, to := filepath.Join(top, "from"), filepath.Join(top, "to")
	must(t, os.Mkdir(from, 0o755))
	must(t, os.WriteFile(filepath.Join(from, "file"), []byte("x"), 0o600))
	names := 1
	for ; names < 70_000; names++ {
		err := os.Link(filepath.Join(from, "file"), filepath.Join(from, strconv.Itoa(names)))
		if errors.Is(err, unix.EMLINK) {
			break
		}
		must(t, err)
	}
	must(t, tree.Copy(t.Context(), from, to, nil))
	copied, err := os.ReadDir(to)
	if err != nil || len(copied) != names {
		t.Errorf("%d names, %v; want %d", len(copied), err, names)
	}
	if got, err := tree.DiskUsage(t.Context(), to, nil); err != nil || got.Inodes > 1+2 {
		t.Errorf("copied %+v, %v", got, err)
	}
}

// TestCopyTreeSaysWhere, without the paths that it went by.
func TestCopyTreeSaysWhere(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	from := filepath.Join(top, "from")
	must(t, os.MkdirAll(filepath.Join(from, "a/b/mounted"), 0o755))
	must(t, unix.Mount(t.TempDir(), filepath.Join(from, "a/b/mounted"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, sys.Unmount(filepath.Join(from, "a/b/mounted"))) })
	err := tree.Copy(t.Context(), from, filepath.Join(top, "to"), nil)
	if !errors.Is(err, unix.EXDEV) || !strings.Contains(err.Error(), "mounted") || !strings.Contains(err.Error(), "2 directories down") || strings.Contains(err.Error(), "/proc/") {
		t.Errorf("error %v", err)
	}
	if err := tree.Copy(t.Context(), filepath.Join(top, "missing"), filepath.Join(top, "to2"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
