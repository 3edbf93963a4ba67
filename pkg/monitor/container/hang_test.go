// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/disk"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestLogIsARegularFile: what stands at a log path is opened without waiting,
// and refused unless it is a regular file.
func TestLogIsARegularFile(t *testing.T) {
	n := monitornode.Start(t)
	fifo := n.LogPath("c")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(ctx context.Context) error {
		_, err := n.Client.Launch(ctx, n.Spec("c", "sleep", "1000"))
		return err
	}
	ctx, cancel := context.WithTimeout(n.Ctx(), 10*time.Second)
	defer cancel()
	if err := try(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("launch with a FIFO for a log: %v", err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := try(ctx); !errdefs.IsFailedPrecondition(err) || ctx.Err() != nil {
		t.Errorf("launch with a FIFO that has a reader: %v", err)
	}
}

// TestLogThatCannotBeOpened: whatever is wrong with the path of a log, the class
// of the error says that it is the node's files, at a launch and at a reopen.
func TestLogThatCannotBeOpened(t *testing.T) {
	n := monitornode.Start(t)
	for name, place := range map[string]func(path string) error{
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"socket":    func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
		"FIFO":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":      func(path string) error { return os.Symlink(path, path) },
		"gone":      func(path string) error { return os.Remove(filepath.Dir(path)) },
		"file": func(path string) error {
			return errors.Join(os.Remove(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		},
	} {
		for _, dir := range []string{"", t.TempDir()} {
			l := n.Spec(fmt.Sprintf("%s-%t", name, dir == ""), "sleep", "1000")
			l.LogPath, l.LogDir = filepath.Join(t.TempDir(), "ctr", "0.log"), dir
			if dir != "" {
				l.LogPath = filepath.Join(dir, "ctr", "0.log")
			}
			if err := os.Mkdir(filepath.Dir(l.LogPath), 0o755); err != nil {
				t.Fatal(err)
			}
			n.Launch(l)
			if err := errors.Join(os.Remove(l.LogPath), place(l.LogPath)); err != nil {
				t.Fatal(err)
			}
			if err := n.Client.ReopenLog(n.Ctx(), l.ID); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("reopen, %s: %v", l.ID, err)
			}
			l.ID += "-again"
			if _, err := n.Client.Launch(n.Ctx(), l); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("launch, %s: %v", l.ID, err)
			}
		}
	}
}

// TestExitWithHungLog: containers whose log does not answer end in bounded time,
// keep no other one, whichever of the monitor's threads hang with them, and their
// log is complete once the file system answers.
func TestExitWithHungLog(t *testing.T) {
	hung := frozenDir(t)
	n := monitornode.Start(t)
	gate := filepath.Join(n.Dir, "gate")
	logs, exits := map[string]string{}, map[string]int{}
	for i := range 8 {
		id := fmt.Sprint("hung", i)
		l := n.Spec(id, "sh", "-c", "echo one; until [ -e "+gate+" ]; do sleep 0.01; done; echo two; sleep 0.2; echo three; exit 3")
		l.LogPath = filepath.Join(hung.dir, id)
		logs[id], exits[id] = l.LogPath, 3
		n.Launch(l)
	}
	n.Launch(n.Spec("other", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; sleep 0.1; echo done; exit 4"))
	for _, path := range logs {
		monitornode.Eventually(t, "the first line", func() bool { b, _ := os.ReadFile(path); return len(b) > 0 })
	}
	hung.freeze()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.WantExits(map[string]int{"other": 4})
	n.WantExits(exits)
	if err := n.Client.Upgrade(n.Ctx()); !errdefs.IsUnavailable(err) {
		t.Errorf("upgrade beside a log that hangs: %v", err)
	}
	hung.thaw()
	for _, path := range logs {
		monitornode.Eventually(t, "the rest of the log", func() bool {
			return monitornode.Text(monitornode.ReadLog(t, path), "stdout") == "one\ntwo\nthree\n"
		})
	}
	if err := n.Client.Upgrade(n.Ctx()); err != nil {
		t.Error("upgrade with the log there again:", err)
	}
}

// TestKillEndsWithTheClient: who waits for an end that takes long is told when
// the client is closed, as it is at the end of the daemon.
func TestKillEndsWithTheClient(t *testing.T) {
	hung := frozenDir(t)
	n := monitornode.Start(t)
	l := n.Spec("hung", "sh", "-c", "echo one; while :; do echo more; sleep 0.01; done")
	l.LogPath = filepath.Join(hung.dir, "log")
	n.Launch(l)
	monitornode.Eventually(t, "the first line", func() bool { b, _ := os.ReadFile(l.LogPath); return len(b) > 0 })
	hung.freeze()
	defer hung.thaw()
	killed := make(chan error, 1)
	began := time.Now()
	go func() { killed <- n.Client.Kill(context.Background(), "hung") }()
	monitornode.Eventually(t, "the process is dead", func() bool {
		return errdefs.IsNotFound(n.Client.Signal(n.Ctx(), "hung", 0))
	})
	n.Stop()
	if err := <-killed; !errdefs.IsUnavailable(err) || time.Since(began) > 5*time.Second {
		t.Errorf("kill: %v after %s, want unavailable at once: the exit takes 7 s", err, time.Since(began))
	}
}

// TestRecoveryWithHungLog: a monitor that starts while one container's log does
// not answer takes over the others, and that one too.
func TestRecoveryWithHungLog(t *testing.T) {
	hung := frozenDir(t)
	n := monitornode.Start(t)
	gate := filepath.Join(n.Dir, "gate")
	script := func(code string) []string {
		return []string{"sh", "-c", "echo one; until [ -e " + gate + " ]; do sleep 0.01; done; echo two; exit " + code}
	}
	for _, id := range []string{"hung", "later"} {
		l := n.Spec(id, script("3")...)
		l.LogPath = filepath.Join(hung.dir, id)
		n.Launch(l)
		monitornode.Eventually(t, "the first line", func() bool { b, _ := os.ReadFile(l.LogPath); return len(b) > 0 })
	}
	n.Launch(n.Spec("other", script("4")...))
	n.WaitLog("other", "one")
	n.Stop()
	n.KillMonitor()
	hung.freeze()
	n.Connect()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.WantExits(map[string]int{"other": 4, "hung": 3, "later": 3})
	hung.thaw()
	for _, id := range []string{"hung", "later"} {
		monitornode.Eventually(t, "the rest of the log", func() bool {
			return monitornode.Text(monitornode.ReadLog(t, filepath.Join(hung.dir, id)), "stdout") == "one\ntwo\n"
		})
	}
}

// TestLaunchWithHungLog: a launch whose log can't be opened fails in bounded time.
func TestLaunchWithHungLog(t *testing.T) {
	hung := frozenDir(t)
	n := monitornode.Start(t)
	l := n.Spec("hung", "sleep", "1000")
	l.LogPath = filepath.Join(hung.dir, "log")
	hung.freeze()
	if _, err := n.Client.Launch(n.Ctx(), l); !errdefs.IsUnavailable(err) {
		t.Errorf("launch: %v", err)
	}
	if err := n.Client.AwaitLaunch(n.Ctx(), "hung"); err != nil {
		t.Errorf("await launch: %v", err)
	}
	if got, err := n.Client.List(n.Ctx()); err != nil || len(got) != 0 {
		t.Errorf("list %v, %v", got, err)
	}
	hung.thaw()
	before := n.Descriptors()
	n.Launch(l)
	if err := n.Client.Signal(n.Ctx(), "hung", 9); err != nil {
		t.Error(err)
	}
	n.Exit()
	monitornode.Eventually(t, "descriptors to be closed", func() bool { return n.Descriptors() <= before })
}

// TestKilledBeforeLastOutput: a container that ended before its monitor was killed
// loses nothing that the monitor had not read. quick has ended when its launch is
// answered, the terminal's other end is known to its client only.
func TestKilledBeforeLastOutput(t *testing.T) {
	for _, id := range []string{"quick", "terminal"} {
		t.Run(id, func(t *testing.T) {
			hung := frozenDir(t)
			n := monitornode.Start(t)
			gate := filepath.Join(n.Dir, "gate")
			l := n.Terminal(id, "sh", "-c", `until [ -e "$0" ]; do sleep 0.01; done; echo last words; exit 5`, gate)
			if id == "quick" {
				l = n.Spec(id)
				// As runc does it: the program leaves a child to be adopted, whose end it does not wait for.
				l.Argv = []string{"/bin/sh", "-c", `until [ -e "$1" ]; do sleep 0.01; done
					(sleep 0.1; echo last words; exit 5) & printf %s $! > "$0"; exec sleep 0.4`, l.PidFile, gate}
			}
			l.LogPath = filepath.Join(hung.dir, "log")
			launched := make(chan error, 1)
			go func() { _, err := n.Client.Launch(n.Ctx(), l); launched <- err }()
			monitornode.Eventually(t, "the log", func() bool { _, err := os.Stat(l.LogPath); return err == nil })
			if id == "terminal" {
				launched <- <-launched
			}
			if err := os.Remove(l.LogPath); err != nil { // an open that only finds a file does not wait
				t.Fatal(err)
			}
			hung.freeze()
			thaw := sync.OnceFunc(hung.thaw)
			defer thaw()
			go func() { _ = n.Client.ReopenLog(n.Ctx(), l.ID) }() // holds the log until the thaw
			monitornode.Eventually(t, "the log to hang", func() bool { return slices.Contains(threadStates(n.PID), 'D') })
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := <-launched; err != nil {
				t.Fatal(err)
			}
			monitornode.Eventually(t, "the end", func() bool {
				found, _ := filepath.Glob(filepath.Join(n.Dir, "*", id, "exit.json"))
				return len(found) == 1
			})
			_ = unix.Kill(n.PID, unix.SIGKILL)
			thaw() // the thread that hangs could not die before
			n.KillMonitor()
			n.Ready()
			if e := n.Exit(); e.ID != id || e.Code != 5 || e.Unknown {
				t.Errorf("exit %+v", e)
			}
			got := monitornode.Text(monitornode.ReadLog(t, l.LogPath), "stdout")
			if strings.ReplaceAll(got, "\r", "") != "last words\n" {
				t.Errorf("log %q", got)
			}
		})
	}
}

// threadStates are the states of a process's threads, as proc(5) has them.
func threadStates(pid int) (states []byte) {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		if _, rest, ok := bytes.Cut(text, []byte(") ")); ok {
			states = append(states, rest[0])
		}
	}
	return states
}

type frozen struct {
	dir          string
	freeze, thaw func()
}

func frozenDir(t *testing.T) frozen {
	t.Helper()
	f := frozen{dir: t.TempDir()}
	f.freeze, f.thaw = disk.Freezable(t, f.dir)
	return f
}

// TestHungLogHoldsUpNobody: while one container's log does not answer, requests
// about others do.
func TestHungLogHoldsUpNobody(t *testing.T) {
	hung := t.TempDir()
	freeze, thaw := disk.Freezable(t, hung)
	n := monitornode.Start(t) // ends before the file system is unmounted
	l := n.Spec("hung", "sleep", "1000")
	l.LogPath = filepath.Join(hung, "log")
	n.Launch(l)
	n.Launch(n.Spec("other", "sleep", "1000"))
	if err := os.Remove(l.LogPath); err != nil { // rotated away: the next is made on the frozen file system
		t.Fatal(err)
	}
	freeze()
	reopened := make(chan error, 1)
	go func() { reopened <- n.Client.ReopenLog(n.Ctx(), "hung") }()
	time.Sleep(100 * time.Millisecond) // until the monitor is at it; earlier tests less
	ctx, cancel := context.WithTimeout(n.Ctx(), 10*time.Second)
	defer cancel()
	if err := n.Client.ReopenLog(ctx, "other"); err != nil {
		t.Error("reopen of another's log:", err)
	}
	if err := n.Client.Signal(ctx, "other", int(unix.SIGKILL)); err != nil {
		t.Error("signal to another:", err)
	}
	thaw()
	if err := <-reopened; err != nil {
		t.Error(err)
	}
}
