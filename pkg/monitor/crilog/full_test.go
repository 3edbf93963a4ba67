// SPDX-License-Identifier: Apache-2.0

package crilog_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/crilog"
)

// TestJournalOnFullFileSystem: output goes on while no slot can be allocated, and
// survives the monitor again as soon as one can.
func TestJournalOnFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("cri-test", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skip("mount tmpfs:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, bytes.Repeat([]byte("x"), 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal("fill the file system:", err)
	}
	rec := newRecordingIn(t, dir)
	for range 5 {
		rec.write(strings.Repeat("while it is full\n", 1000))
		rec.r.Drain()
		rec.check()
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		rec.write("there is room\n")
		rec.r.Drain()
	}
	rec.write("the last words\n")
	rec.r.Crash(crilog.AfterRead, len("the last words\n"), 0, false)
	rec.successor()
	rec.check()
}
