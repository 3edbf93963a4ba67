// SPDX-License-Identifier: Apache-2.0

package child_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/test/await"
)

// start runs a script with the reaper at work for the time of the test.
func start(t *testing.T, ctx context.Context, script string) (*child.Reaper, child.Process, error) {
	t.Helper()
	r := child.NewReaper("")
	life, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); r.Run(life) }()
	t.Cleanup(func() { stop(); <-done })
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	fd := int(null.Fd())
	pidFile := filepath.Join(t.TempDir(), "pid")
	t.Cleanup(r.Expect())
	p, err := r.Start(ctx, &child.Program{
		Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PID=" + pidFile, "PATH=/usr/bin:/bin"},
		Files: [3]int{fd, fd, fd}, PidFile: pidFile,
	})
	return r, p, err
}

// TestEveryEndIsTold, also of a process that has ended and was reaped before
// anybody asked for it.
func TestEveryEndIsTold(t *testing.T) {
	for name, script := range map[string]string{
		"before the program ends": `sh -c '(sleep 0.05; exit 5) & echo $! >$PID'; sleep 0.3`,
		"after it":                "(sleep 0.1; exit 5) & echo $! >$PID",
	} {
		t.Run(name, func(t *testing.T) { // one reaper at a time
			r, p, err := start(t, t.Context(), script)
			if err != nil {
				t.Fatal(err)
			}
			told := make(chan unix.WaitStatus, 1)
			r.Await(p.PID, p.Since, func(ws unix.WaitStatus) { told <- ws })
			select {
			case ws := <-told:
				if code, sig := child.ExitCode(ws); code != 5 || sig != 0 {
					t.Errorf("ended with %d, signal %d", code, sig)
				}
			case <-time.After(10 * time.Second):
				t.Error("nobody was told")
			}
			if fd := r.Pidfd(p); fd >= 0 {
				t.Error("a pidfd of a process that has ended")
			}
		})
	}
}

func TestProgramThatFails(t *testing.T) {
	_, _, err := start(t, t.Context(), "exit 3")
	if failed := (*wire.LaunchError)(nil); !errors.As(err, &failed) || failed.ExitCode != 3 {
		t.Errorf("error %v", err)
	}
}

// TestProgramThatIsGivenUp is killed, and what it started too.
func TestProgramThatIsGivenUp(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left")
	ctx, giveUp := context.WithCancel(t.Context())
	go func() {
		defer giveUp()
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if b, _ := os.ReadFile(left); len(b) > 0 {
				return
			}
		}
	}()
	_, _, err := start(t, ctx, fmt.Sprintf("sleep 1000 & echo $! >$PID; echo $! >%s.new; mv %s.new %s; sleep 1000", left, left, left))
	if failed := (*wire.LaunchError)(nil); !errors.As(err, &failed) || failed.ExitCode != 137 {
		t.Errorf("error %v", err)
	}
	pid, err := child.ReadPID(left)
	if err != nil {
		t.Fatal(err)
	}
	await.Until(t, 10*time.Second, "what the program started has ended", func() bool { return unix.Kill(pid, 0) != nil })
}

// TestChild tells what the reaper will hear of from what it never does.
func TestChild(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   bool
	}{
		"runs":                  {"sleep 1000 & echo $! >$PID", true},
		"reaped here":           {"(sleep 0.05; exit 4) & echo $! >$PID; exec sleep 0.2", true},
		"reaped by the program": {"(exit 5) & echo $! >$PID; wait", false},
		"another's":             {fmt.Sprintf("echo %d >$PID", os.Getppid()), false},
	} {
		t.Run(name, func(t *testing.T) {
			r, p, err := start(t, t.Context(), c.script)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Child(p); got != c.want {
				t.Errorf("child: %t", got)
			}
			if name == "runs" {
				r.Kill(p)
			}
		})
	}
}
