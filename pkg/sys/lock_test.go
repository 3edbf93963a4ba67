// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// holdLock locks, starts a child that has the lock's file open until its stdin ends, and ends when its own does.
func holdLock(path string) int {
	f, err := sys.LockFile(path)
	if err != nil {
		return 1
	}
	child := exec.Command("cat", "/proc/self/fd/4")
	release := os.NewFile(3, "release")
	child.ExtraFiles = []*os.File{f, release}
	if err := child.Start(); err != nil {
		return 1
	}
	os.Stdout.WriteString("locked\n")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func TestLockOfDeadProcessIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, release, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer release.Close()
	holder := exec.Command(os.Args[0])
	holder.Env, holder.ExtraFiles = append(os.Environ(), "TEST_LOCK="+path), []*os.File{held}
	stdin, err1 := holder.StdinPipe()
	stdout, err2 := holder.StdoutPipe()
	if err := errors.Join(err1, err2, holder.Start()); err != nil {
		t.Fatal(err)
	}
	held.Close()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("holder said %q, %v", line, err)
	}

	if _, err := sys.LockFile(path); !errors.Is(err, sys.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("lock that a living process has: %v", err)
	}
	stdin.Close()
	if err := holder.Wait(); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		f, err := sys.LockFile(path)
		if err == nil {
			defer f.Close()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("lock came while the dead process's child had it: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release.Close() // the child ends
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestLockOfEndingProcessIsAwaited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := sys.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	limit, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := sys.AwaitLock(limit, path); !errors.Is(err, sys.ErrLocked) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("lock that stays with its holder: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		f, err := sys.AwaitLock(t.Context(), path)
		if err == nil {
			defer f.Close()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("lock came while its holder had it: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	held.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
	again, err := sys.AwaitLock(t.Context(), path)
	if err != nil {
		t.Fatalf("a wait that was given up kept the lock: %v", err)
	}
	again.Close()
}
