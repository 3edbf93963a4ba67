// SPDX-License-Identifier: Apache-2.0

package exitlog_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/exitlog"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// small is a directory on a tmpfs of a few pages.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("cri-test", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("mount tmpfs:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill leaves no page of the file system, until room is called.
func fill(t *testing.T, dir string) (room func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal("fill the file system:", err)
	}
	return func() { os.Remove(path) }
}

// TestFullFileSystem: the next process goes on with the file that is there, and
// no number is given out twice, whether its exit could be written or not.
func TestFullFileSystem(t *testing.T) {
	dir := small(t)
	path := filepath.Join(dir, "exits.log")
	l := open(t, path)
	add(l, "a", "b")
	epoch, last := l.Epoch(), uint64(0)
	l.Replay(func(e wire.Exit) { last = e.Seq }, func() {})
	room := fill(t, dir)
	for range 2 {
		l = open(t, path)
		if got := listed(l); len(got) < 2 || !reflect.DeepEqual(got[:2], []string{"a1", "b2"}) || l.Epoch() != epoch {
			t.Fatalf("on a full file system: given out %v, epoch %s after %s", got, l.Epoch(), epoch)
		}
		for range 100 { // more than the file's last page takes
			l.Append(wire.Exit{ID: "container-with-a-long-name", Pid: 1}, func(e wire.Exit) {
				if e.Seq <= last {
					t.Fatalf("number %d after %d", e.Seq, last)
				}
				last = e.Seq
			})
		}
	}
	// What is freed by the end of a container is enough for its exit, and for those that could not be written before.
	l.Append(wire.Exit{ID: "c", Pid: 1}, func(wire.Exit) { room() })
	if got, want := listed(open(t, path)), listed(l); len(got) < 103 || !reflect.DeepEqual(got, want) {
		t.Errorf("once there is room: given out %v, want %v", got, want)
	}
}

// TestUnfinishedLastLine does not take the next one along.
func TestUnfinishedLastLine(t *testing.T) {
	dir := small(t)
	path := filepath.Join(dir, "exits.log")
	text := "{\"epoch\":\"e\"}\n{\"exit\":{\"id\":\"a\",\"seq\":1}}\n{\"exit\":{\"id\":\"b\","
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	add(open(t, path), "c") // into the page that the file has
	if got := listed(open(t, path)); !reflect.DeepEqual(got, []string{"a1", "c"}) {
		t.Errorf("given out %v", got)
	}
}

// TestNoLogOnFullFileSystem: there is none to go on with.
func TestNoLogOnFullFileSystem(t *testing.T) {
	dir := small(t)
	fill(t, dir)
	if _, err := exitlog.Open(filepath.Join(dir, "exits.log"), slog.New(slog.DiscardHandler)); !errors.Is(err, unix.ENOSPC) {
		t.Error("open:", err)
	}
}
