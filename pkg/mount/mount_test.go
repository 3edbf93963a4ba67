// SPDX-License-Identifier: Apache-2.0

package mount_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestSort(t *testing.T) {
	var mounts []specs.Mount
	for _, at := range []string{"/dev/shm", "/b/c/d", "/proc", "/b", "/dev", "/a"} {
		mounts = append(mounts, specs.Mount{Destination: at})
	}
	mount.Sort(mounts)
	var got []string
	for _, m := range mounts {
		got = append(got, m.Destination)
	}
	if want := []string{"/proc", "/b", "/dev", "/a", "/dev/shm", "/b/c/d"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// TestPropagate has each option of a mount on each kind of source, one after the other for the same root.
func TestPropagate(t *testing.T) {
	gone := errors.New("gone")
	look := func(path string) (mount.Propagation, error) {
		if path == "/gone" {
			return mount.Propagation{}, gone
		}
		return mount.Propagation{Mount: path, Shared: path == "/shared", Slave: path == "/slave"}, nil
	}
	for _, c := range []struct {
		root, source, options, want string
		err                         error
	}{
		{"", "/gone", "ro private rprivate bind r", "", nil},
		{"", "/shared", "slave rslave", "rslave", nil},
		{"", "/slave", "rslave slave", "rslave", nil},
		{"", "/shared", "rslave rshared", "rshared", nil},
		{"rshared", "/slave", "rslave", "rshared", nil},
		{"", "/slave", "shared", "", errdefs.ErrFailedPrecondition},
		{"rslave", "/slave", "rshared", "rslave", errdefs.ErrFailedPrecondition},
		{"", "/private", "rslave", "", errdefs.ErrFailedPrecondition},
		{"", "/gone", "rshared", "", gone},
	} {
		linux := &specs.Linux{RootfsPropagation: c.root}
		for option := range strings.FieldsSeq(c.options) {
			if err := mount.Propagate(linux, look, c.source, option); !errors.Is(err, c.err) {
				t.Errorf("%s %s: error %v, want %v", c.source, option, err, c.err)
			}
		}
		if linux.RootfsPropagation != c.want {
			t.Errorf("%s with %q: root is %q, want %q", c.source, c.options, linux.RootfsPropagation, c.want)
		}
	}
	linux := &specs.Linux{}
	if err := mount.Propagate(linux, nil, "/gone", "rshared"); err != nil || linux.RootfsPropagation != "rshared" {
		t.Errorf("unchecked: %q, %v", linux.RootfsPropagation, err)
	}
}

// TestPropagationOf reads how real mounts propagate, the topmost one of several at a path, and through a link to it.
func TestPropagationOf(t *testing.T) {
	if _, err := mount.PropagationOf("/no/such/path"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing path: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	at, link := filepath.Join(dir, "m"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(at, 0o755), os.Symlink(at, link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flag uintptr
		want mount.Propagation
	}{
		{unix.MS_PRIVATE, mount.Propagation{Mount: at}},
		{unix.MS_SHARED, mount.Propagation{Mount: at, Shared: true}},
		{unix.MS_PRIVATE, mount.Propagation{Mount: at}},
	} {
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sys.Unmount(at) })
		err := errors.Join(unix.Mount("", at, "", c.flag, ""), os.Mkdir(filepath.Join(at, "sub"), 0o755))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{at, filepath.Join(link, "sub")} {
			if got, err := mount.PropagationOf(path); err != nil || got != c.want {
				t.Errorf("%s: %+v, %v; want %+v", path, got, err, c.want)
			}
		}
	}
}
