// SPDX-License-Identifier: Apache-2.0

package tree_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	continuity "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
	"github.com/cri-shim/cri-shim/test/linear"
)

// deepen makes depth directories inside each other, as a program does that changes into each, and a file in every
// hundredth.
func deepen(t testing.TB, dir string, depth int, name string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for i := range depth {
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		if i%100 == 0 {
			f, err := unix.Openat(next, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
			must(t, err)
			must(t, unix.Close(f))
		}
		must(t, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
}

// inMemory is for trees whose shape is the point, and which take minutes on a disk. What normalTree has is on the disk.
func inMemory(t testing.TB) string {
	t.Helper()
	dir := linear.Dir(t)
	t.Cleanup(func() { must(t, tree.Remove(context.Background(), dir)) })
	return dir
}

// fewDescriptors lowers the limit to a few above what the test has open.
func fewDescriptors(t *testing.T, few int) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open) + few), Max: old.Max}))
	t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) })
}

// normalTree has something of everything.
func normalTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for i := range 30 {
		sub := filepath.Join(dir, strconv.Itoa(i%7), strconv.Itoa(i))
		must(t, os.MkdirAll(sub, 0o755))
		for n := range i {
			must(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file %d", n)), make([]byte, 1000*n*i), 0o600))
		}
		must(t, os.Symlink("/etc/passwd", filepath.Join(sub, "short link")))
		must(t, os.Symlink(strings.Repeat("long/", 200), filepath.Join(sub, "long link")))
		must(t, os.Symlink(dir, filepath.Join(sub, "loop")))
		must(t, unix.Mkfifo(filepath.Join(sub, "fifo"), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(dir, "linked"), make([]byte, 1<<20), 0o600))
	for i := range 20 {
		must(t, os.Link(filepath.Join(dir, "linked"), filepath.Join(dir, strconv.Itoa(i%7), "again "+strconv.Itoa(i))))
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, sparse.Truncate(1<<30))
	_, err = sparse.WriteAt(make([]byte, 5000), 1<<29)
	must(t, err)
	must(t, sparse.Close())
	wide := filepath.Join(dir, "wide")
	must(t, os.Mkdir(wide, 0o755))
	for i := range 3000 {
		must(t, os.Mkdir(filepath.Join(wide, strings.Repeat("n", 200)+strconv.Itoa(i)), 0o755))
	}
	return dir
}

// TestDiskUsageIsDu compares with what counted before, and with du.
func TestDiskUsageIsDu(t *testing.T) {
	t.Parallel()
	dir := normalTree(t)
	got, err := tree.DiskUsage(t.Context(), dir, nil)
	must(t, err)
	want, err := continuity.DiskUsage(t.Context(), dir)
	must(t, err)
	if got.Bytes != uint64(want.Size) || got.Inodes != uint64(want.Inodes) {
		t.Errorf("%+v, continuity %+v", got, want)
	}
	for flag, have := range map[string]uint64{"--block-size=1": got.Bytes, "--inodes": got.Inodes} {
		out, err := exec.Command("du", "-s", flag, dir).Output()
		must(t, err)
		if field := strings.Fields(string(out))[0]; field != strconv.FormatUint(have, 10) {
			t.Errorf("%d, du %s: %s", have, flag, field)
		}
	}
}

func TestDiskUsageOf(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	link := filepath.Join(dir, "link")
	must(t, os.Symlink("/", link))
	if _, err := tree.DiskUsage(t.Context(), filepath.Join(dir, "missing"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	for _, path := range []string{file, link} {
		if got, err := tree.DiskUsage(t.Context(), path, nil); err == nil || got != (tree.Usage{}) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := tree.DiskUsage(ctx, dir, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %+v, %v", got, err)
	}
}

// TestHostileTrees measures and removes what no path can name, with few descriptors and little memory.
func TestHostileTrees(t *testing.T) {
	for name, c := range map[string]struct {
		make   func(dir string)
		inodes uint64
	}{
		"100,000 levels":     {func(dir string) { deepen(t, dir, 100_000, "d") }, 1 + 100_000 + 1000},
		"names of 255 bytes": {func(dir string) { deepen(t, dir, 3000, strings.Repeat("n", 255)) }, 1 + 3000 + 30},
		"deep beside deep": {func(dir string) {
			for i := range 40 {
				must(t, os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o755))
				deepen(t, filepath.Join(dir, strconv.Itoa(i)), 200, "d")
			}
		}, 1 + 40*(1+200+2)},
		"wide where it is deep": {func(dir string) {
			deepen(t, dir, 70, "d")
			at := filepath.Join(dir, strings.Repeat("d/", 70))
			for i := range 500 {
				must(t, os.MkdirAll(filepath.Join(at, strconv.Itoa(i), "sub", "sub"), 0o755))
			}
		}, 1 + 70 + 1 + 1500},
		"comb": {func(dir string) {
			at := dir
			for i := range 400 {
				at = filepath.Join(at, "t")
				must(t, os.MkdirAll(filepath.Join(at, "a"), 0o755))
				must(t, os.MkdirAll(filepath.Join(at, "z"), 0o755))
				must(t, os.WriteFile(filepath.Join(at, "f"), []byte{byte(i)}, 0o600))
			}
		}, 1 + 4*400},
		"names like ours": {func(dir string) {
			for _, n := range []string{".removed-", ".removed-A", "...", ".. ", " ", "\n", "\xff\xfe"} {
				must(t, os.MkdirAll(filepath.Join(dir, n, n), 0o755))
			}
		}, 1 + 14},
		"without permissions": {func(dir string) {
			must(t, os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
			must(t, os.Chmod(filepath.Join(dir, "a/b"), 0))
		}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			top := inMemory(t)
			dir := filepath.Join(top, "tree")
			must(t, os.Mkdir(dir, 0o755))
			c.make(dir)
			fewDescriptors(t, 80)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := tree.DiskUsage(t.Context(), dir, nil)
			if err != nil || got.Inodes != c.inodes {
				t.Errorf("%+v, %v; want %d inodes", got, err, c.inodes)
			}
			must(t, tree.Remove(t.Context(), dir))
			runtime.ReadMemStats(&after)
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 100*1024+c.inodes*4096 {
				t.Errorf("allocated %d bytes for %d inodes", grew, c.inodes)
			}
			if left, err := os.ReadDir(top); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

// TestManyLinks counts files with several links beyond those that are remembered.
func TestManyLinks(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		name := filepath.Join(dir, strconv.Itoa(i))
		must(t, os.WriteFile(name, []byte("x"), 0o600))
		for n := range i % 5 {
			must(t, os.Link(name, name+"."+strconv.Itoa(n)))
		}
	}
	want, err := tree.DiskUsage(t.Context(), dir, nil)
	must(t, err)
	got, err := tree.DiskUsageWithLinks(t.Context(), dir, 10)
	must(t, err)
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestRemoveTree(t *testing.T) {
	t.Parallel()
	dir := normalTree(t)
	top := filepath.Dir(dir)
	must(t, tree.Remove(t.Context(), dir))
	must(t, tree.Remove(t.Context(), dir))
	must(t, tree.Remove(t.Context(), filepath.Join(dir, "nothing/of/this")))
	outside := filepath.Join(top, "outside")
	must(t, os.MkdirAll(filepath.Join(outside, "kept"), 0o755))
	must(t, os.Symlink(outside, dir))
	must(t, tree.Remove(t.Context(), dir))
	must(t, os.WriteFile(dir, nil, 0o600))
	must(t, tree.Remove(t.Context(), dir+"/"))
	if left, err := os.ReadDir(top); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Errorf("removed through a symlink: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.Remove(ctx, outside); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestRemoveTreeStopsAtMounts never removes through one, says where it is, and removes the rest.
func TestRemoveTreeStopsAtMounts(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	dir, kept := filepath.Join(top, "tree"), filepath.Join(top, "kept")
	at := filepath.Join(dir, "a/b/c")
	must(t, os.MkdirAll(filepath.Join(at, "m"), 0o755))
	must(t, os.MkdirAll(kept, 0o755))
	must(t, os.WriteFile(filepath.Join(kept, "file"), []byte("kept"), 0o600))
	must(t, os.WriteFile(filepath.Join(at, "file"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "z"), nil, 0o600))
	for _, m := range [][2]string{{kept, filepath.Join(at, "m")}, {filepath.Join(kept, "file"), filepath.Join(at, "file")}} {
		must(t, unix.Mount(m[0], m[1], "", unix.MS_BIND, ""))
		t.Cleanup(func() { must(t, sys.Unmount(m[1])) })
	}
	used, err := tree.DiskUsage(t.Context(), dir, nil)
	if err != nil || used.Inodes != 5 {
		t.Errorf("use %+v, %v", used, err)
	}
	err = tree.Remove(t.Context(), dir)
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "mount point") || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(kept, "file")); err != nil {
		t.Errorf("removed through a mount: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "z")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rest stayed: %v", err)
	}
	if err := tree.Remove(t.Context(), filepath.Join(at, "m")); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a mount itself: %v", err)
	}
}

// TestRemoveTreeSaysWhatIsImmutable, at any depth, and once it is not, it goes.
func TestRemoveTreeSaysWhatIsImmutable(t *testing.T) {
	t.Parallel()
	needRoot(t)
	chattr := func(flag, path string) {
		t.Helper()
		if out, err := exec.Command("chattr", flag, path).CombinedOutput(); err != nil {
			t.Fatalf("chattr %s: %s", flag, out)
		}
	}
	dir := filepath.Join(t.TempDir(), "tree")
	for _, deep := range []int{0, 3, 150} {
		for _, kind := range []string{"file", "directory"} {
			at := filepath.Join(dir, strings.Repeat("d/", deep))
			must(t, os.MkdirAll(at, 0o755))
			stuck := filepath.Join(at, "stuck")
			if kind == "file" {
				must(t, os.WriteFile(stuck, nil, 0o600))
			} else {
				must(t, os.MkdirAll(filepath.Join(stuck, "in"), 0o755))
			}
			chattr("+i", stuck)
			err := tree.Remove(t.Context(), dir)
			moved := ""
			_ = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, _ error) error {
				if filepath.Base(p) == "stuck" {
					moved = p
				}
				return nil
			})
			chattr("-i", moved)
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "immutable") || len(err.Error()) > 1000 {
				t.Errorf("%s %d deep: %v", kind, deep, err)
			}
			must(t, tree.Remove(t.Context(), dir))
		}
	}
}

// TestRemoveTreeTogether removes one tree from several sides at once, while somebody moves directories about in it.
func TestRemoveTreeTogether(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(inMemory(t), "tree")
	must(t, os.Mkdir(dir, 0o755))
	for i := range 20 {
		sub := filepath.Join(dir, strconv.Itoa(i))
		must(t, os.Mkdir(sub, 0o755))
		deepen(t, sub, 300, "d")
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { // it may vanish under us: only the end counts
			for n := range 20 {
				from := filepath.Join(dir, strconv.Itoa(n), strings.Repeat("d/", 50+i))
				_ = os.Rename(from, filepath.Join(dir, fmt.Sprintf("moved-%d-%d", i, n)))
				_, _ = tree.DiskUsage(t.Context(), dir, nil)
			}
		})
		wg.Go(func() {
			if err := tree.Remove(t.Context(), dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

// TestTreeAgainstSymlinkSwaps: directories that turn into symlinks while we look lead nowhere.
func TestTreeAgainstSymlinkSwaps(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	outside, dir := filepath.Join(top, "outside"), filepath.Join(top, "tree")
	must(t, os.MkdirAll(outside, 0o755))
	for i := range 100 {
		must(t, os.WriteFile(filepath.Join(outside, strconv.Itoa(i)), nil, 0o600))
	}
	must(t, os.Mkdir(dir, 0o755))
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.MkdirAll(filepath.Join(a, "x"), 0o755)
			_ = os.Symlink(outside, b)
			_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		}
	})
	for range 300 {
		u, _ := tree.DiskUsage(t.Context(), dir, nil) // the tree changes: only that nothing outside is counted
		if u.Inodes > 10 {
			t.Errorf("counted outside: %+v", u)
		}
		sub, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range sub {
			_ = tree.Remove(t.Context(), filepath.Join(dir, e.Name()))
		}
	}
	close(stop)
	swaps.Wait()
	for i := range 100 {
		if _, err := os.Lstat(filepath.Join(outside, strconv.Itoa(i))); err != nil {
			t.Errorf("removed outside: %v", err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts and file attributes need root")
	}
}
