// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

func netnsDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	dir := t.TempDir()
	t.Cleanup(func() { // before the directory goes
		paths, _ := netns.List(dir + "/ns/")
		for _, p := range paths {
			_ = netns.Remove(p)
		}
	})
	return filepath.Join(dir, "ns")
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestNetNSPinListRemove(t *testing.T) {
	dir := netnsDir(t)
	path := dir + "/cri-one"
	home := inode(t, "/proc/self/ns/net")
	if err := netns.New(path); err != nil {
		t.Fatal(err)
	}
	first := inode(t, path)
	if err := netns.New(path); err != nil || inode(t, path) != first {
		t.Errorf("second time: %v, or another namespace", err)
	}
	if first == home || !netns.Is(path) || inode(t, "/proc/self/ns/net") != home {
		t.Error("not a namespace of its own")
	}
	if err := os.WriteFile(dir+"/cri-half", nil, 0o600); err != nil { // killed before the mount
		t.Fatal(err)
	}
	_ = os.WriteFile(dir+"/other", nil, 0o600)
	got, err := netns.List(dir + "/cri-")
	if err != nil || strings.Join(got, " ") != dir+"/cri-half "+dir+"/cri-one" {
		t.Errorf("list %v %v", got, err)
	}
	for _, p := range append(got, got...) {
		if err := netns.Remove(p); err != nil {
			t.Error(err)
		}
	}
	if got, err := netns.List(dir + "/cri-"); err != nil || len(got) != 0 {
		t.Errorf("left %v %v", got, err)
	}
	if got, err := netns.List("/nowhere/cri-"); err != nil || len(got) != 0 {
		t.Errorf("missing directory: %v %v", got, err)
	}
	if got, err := netns.List("cri-"); err == nil {
		t.Errorf("a name without a directory: %v", got)
	}
}

func TestNetNSInParallelLeavesNoThreadBehind(t *testing.T) {
	dir := netnsDir(t)
	home := inode(t, "/proc/self/ns/net")
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			path := dir + "/cri-" + string(rune('a'+i%20)) // two for each name
			if err := netns.New(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	paths, _ := netns.List(dir + "/cri-")
	if len(paths) != 20 {
		t.Errorf("%d namespaces", len(paths))
	}
	for _, p := range paths {
		if err := netns.Remove(p); err != nil {
			t.Error(err)
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if link, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && inode(t, "/proc/self/task/"+task.Name()+"/ns/net") != home {
			t.Errorf("thread %s is in %s", task.Name(), link)
		}
	}
}

func TestDialInNetNS(t *testing.T) {
	path := netnsDir(t) + "/cri-dial"
	if err := netns.New(path); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	err := netns.In(path, func() (err error) {
		if err := loUp(); err != nil {
			return err
		}
		l, err = net.Listen("tcp", "[::1]:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for addr, ok := range map[string]bool{"[::1]:" + port: true, "localhost:" + port: false, "127.0.0.1:" + port: false, "example.org:80": false, "nonsense": false} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		c, err := netns.Dial(ctx, path, "tcp", addr)
		if (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
		if err == nil {
			c.Close()
		}
		cancel()
	}
	if c, err := net.Dial("tcp", "[::1]:"+port); err == nil {
		c.Close()
		t.Error("reached from outside")
	}
	if _, err := netns.Dial(t.Context(), path+"-none", "tcp", "127.0.0.1:1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing namespace: %v", err)
	}
}

// loUp without a netlink library.
func loUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func TestUserNetNS(t *testing.T) {
	dir := netnsDir(t)
	user, network := dir+"/cri-user", dir+"/cri-net"
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	if err := netns.NewWithUser(user, network, ids, ids); err != nil {
		t.Fatal(err)
	}
	owner := func() uint64 {
		f, err := os.Open(network)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	first := inode(t, user)
	if owner() != first || first == inode(t, "/proc/self/ns/user") {
		t.Error("network namespace is not owned by the user namespace")
	}
	if err := netns.NewWithUser(user, network, ids, ids); err != nil || inode(t, user) != first {
		t.Errorf("second time: %v, or another namespace", err)
	}
	if err := netns.Remove(network); err != nil {
		t.Fatal(err)
	}
	if err := netns.NewWithUser(user, network, ids, ids); err != nil || inode(t, user) != owner() {
		t.Errorf("half a pair: %v", err)
	}
	if err := netns.In(network, loUp); err != nil {
		t.Error(err)
	}
	if err := errors.Join(netns.Remove(network), netns.Remove(user)); err != nil {
		t.Error(err)
	}
}

func TestHostID(t *testing.T) {
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 10}, {ContainerID: 50, HostID: 7, Size: 1}}
	for id, want := range map[int64]int{0: 100000, 9: 100009, 50: 7} {
		if got, mapped := netns.HostID(maps, id); got != want || !mapped {
			t.Errorf("%d: %d, %v, want %d", id, got, mapped, want)
		}
	}
	for _, id := range []int64{10, 49, 51} {
		if got, mapped := netns.HostID(maps, id); got != int(id) || mapped {
			t.Errorf("%d is in no map: %d, %v", id, got, mapped)
		}
	}
}
