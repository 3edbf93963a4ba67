// SPDX-License-Identifier: Apache-2.0

// Package disk makes file systems that stop answering, for tests: one whose server never answers, and one that is
// frozen. A test that lacks what they are made of is skipped; when that is there, what fails fails the test.
package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Dead mounts at dir a file system that answers nothing, as that of a server that is gone: FUSE, whose server is this
// process and never reads a request. From die on it answers each one with an error. unmount dies too, and so does the
// end of the test.
func Dead(t testing.TB, dir string) (die, unmount func()) {
	t.Helper()
	needRoot(t)
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	die = sync.OnceFunc(func() { server.Close() })
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())
	if err := unix.Mount("cri-dead", dir, "fuse.cri-dead", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		die()
		t.Fatalf("mount a file system that does not answer: %v", err)
	}
	unmount = sync.OnceFunc(func() {
		die() // ends whoever waits
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	t.Cleanup(unmount)
	return die, unmount
}

// frozenSize is that of a file system that is frozen, in bytes.
const frozenSize = 64 << 20

// Freezable mounts at dir a file system that from freeze on answers no write until thaw, or the end of the test, which
// unmounts it.
func Freezable(t testing.TB, dir string) (freeze, thaw func()) {
	t.Helper()
	image := Image(t, frozenSize)
	must(t, "mount", "-o", "loop", image, dir)
	frozen := false
	freeze = func() {
		t.Helper()
		must(t, "fsfreeze", "-f", dir)
		frozen = true
	}
	thaw = func() {
		t.Helper()
		must(t, "fsfreeze", "-u", dir)
		frozen = false
	}
	t.Cleanup(func() {
		var err error
		if frozen {
			err = run("fsfreeze", "-u", dir)
		}
		if err := errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return freeze, thaw
}

// Image makes a file with an ext4 file system of size bytes, to be mounted with the option loop.
func Image(t testing.TB, size int64) (path string) {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4")
	}
	path = filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	must(t, "mkfs.ext4", "-q", "-F", path)
	return path
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
	}
	return nil
}

func must(t testing.TB, name string, args ...string) {
	t.Helper()
	if err := run(name, args...); err != nil {
		t.Fatal(err)
	}
}
