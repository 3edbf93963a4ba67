// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLogIsARegularFile: what stands at a log path is opened without waiting,
// and refused unless it is a regular file.
func TestLogIsARegularFile(t *testing.T) {
	n := startNode(t)
	fifo := n.logPath("c")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(ctx context.Context) error {
		_, err := n.client.Launch(ctx, n.spec("c", "sleep", "1000"))
		return err
	}
	ctx, cancel := context.WithTimeout(n.ctx(), 10*time.Second)
	defer cancel()
	if err := try(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("launch with a FIFO for a log: %v", err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := try(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("launch with a FIFO that has a reader: %v", err)
	}
}

// freeze makes a file system below dir that answers no write until thaw.
func freeze(t *testing.T, dir string) (freeze, thaw func()) {
	t.Helper()
	run := func(name string, args ...string) error { return exec.Command(name, args...).Run() }
	image := filepath.Join(t.TempDir(), "image")
	for _, step := range [][]string{{"truncate", "-s", "16M", image}, {"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if err := run(step[0], step[1:]...); err != nil {
			t.Skipf("%v: %v", step, err)
		}
	}
	t.Cleanup(func() {
		_ = run("fsfreeze", "-u", dir)
		if err := run("umount", dir); err != nil {
			t.Error(err)
		}
	})
	return func() {
			if err := run("fsfreeze", "-f", dir); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := run("fsfreeze", "-u", dir); err != nil {
				t.Fatal(err)
			}
		}
}

// TestHungLogHoldsUpNobody: while one container's log does not answer, requests
// about others do.
func TestHungLogHoldsUpNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	hung := t.TempDir()
	freeze, thaw := freeze(t, hung)
	n := startNode(t) // ends before the file system is unmounted
	l := n.spec("hung", "sleep", "1000")
	l.LogPath = filepath.Join(hung, "log")
	n.launch(l)
	n.launch(n.spec("other", "sleep", "1000"))
	if err := os.Remove(l.LogPath); err != nil { // rotated away: the next is made on the frozen file system
		t.Fatal(err)
	}
	freeze()
	reopened := make(chan error, 1)
	go func() { reopened <- n.client.ReopenLog(n.ctx(), "hung") }()
	time.Sleep(100 * time.Millisecond) // until the monitor is at it; earlier tests less
	ctx, cancel := context.WithTimeout(n.ctx(), 10*time.Second)
	defer cancel()
	if err := n.client.ReopenLog(ctx, "other"); err != nil {
		t.Error("reopen of another's log:", err)
	}
	if err := n.client.Signal(ctx, "other", int(unix.SIGKILL)); err != nil {
		t.Error("signal to another:", err)
	}
	thaw()
	if err := <-reopened; err != nil {
		t.Error(err)
	}
}
