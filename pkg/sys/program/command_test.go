// SPDX-License-Identifier: Apache-2.0

package program_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
	"github.com/cri-shim/cri-shim/test/await"
)

func script(text string) program.Command {
	return program.Command{Path: "/bin/sh", Args: []string{"-ec", text}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}
}

// lock is one that a test gives up at its end.
func lock(t *testing.T) *program.Lock {
	t.Helper()
	l, err := program.NewLocks(t.TempDir()).Take(t.Context(), "it", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Release)
	return l
}

// TestCapture runs each script with a lock and without.
func TestCapture(t *testing.T) {
	for _, tc := range []struct {
		name, script, stdin, stdout, stderr string
		code                                int
	}{
		{name: "plain", script: `cat; echo bad >&2; exit 3`, stdin: "in\n", stdout: "in\n", stderr: "bad\n", code: 3},
		{name: "reopened", script: `echo a >/dev/stdout; echo b >/dev/stdout; echo c >/dev/stderr; echo d >/dev/stderr`, stdout: "a\nb\n", stderr: "c\nd\n"},
		{name: "appended", script: `echo a >>/dev/stdout; echo b; echo c >>/dev/stderr; echo d >&2`, stdout: "a\nb\n", stderr: "c\nd\n"},
		{name: "by descriptor", script: `echo a >/proc/self/fd/1; echo b >/dev/fd/2`, stdout: "a\n", stderr: "b\n"},
		{name: "reopened input", script: `cat /dev/stdin`, stdin: "in\n", stdout: "in\n"},
		{name: "one output for both", script: `exec 2>&1; echo a; echo b >&2; echo c >/dev/stderr`, stdout: "a\nb\nc\n"},
		{name: "a child writes last", script: `(sleep 0.1; echo late) & echo now`, stdout: "now\nlate\n"},
		{name: "tee", script: `echo a | tee /dev/stderr`, stdout: "a\n", stderr: "a\n"},
	} {
		for _, l := range []*program.Lock{nil, lock(t)} {
			t.Run(fmt.Sprintf("%s, lock %t", tc.name, l != nil), func(t *testing.T) {
				c := script(tc.script)
				c.Stdin, c.Lock = []byte(tc.stdin), l
				out, err := c.Run(t.Context())
				if err != nil || string(out.Stdout) != tc.stdout || string(out.Stderr) != tc.stderr || out.Code != tc.code {
					t.Errorf("stdout %q, stderr %q, code %d, %v", out.Stdout, out.Stderr, out.Code, err)
				}
			})
		}
	}
}

func TestMissingProgram(t *testing.T) {
	for _, l := range []*program.Lock{nil, lock(t)} {
		if _, err := (program.Command{Path: "/nowhere", Lock: l}).Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("lock %t: %v", l != nil, err)
		}
	}
}

func TestCaptureIsBounded(t *testing.T) {
	out, err := script(`head -c 3000000 /dev/zero; echo end >&2`).Run(t.Context())
	if err != nil || len(out.Stdout) != 1<<20 || string(out.Stderr) != "end\n" {
		t.Errorf("%d bytes, stderr %q, %v", len(out.Stdout), out.Stderr, err)
	}
}

// TestCaptureDoesNotWaitForDaemons compares with the time that what was left running takes.
func TestCaptureDoesNotWaitForDaemons(t *testing.T) {
	l := lock(t)
	c := script(`setsid sleep 60 & echo $!`)
	c.Lock = l
	began := time.Now()
	out, err := c.Run(t.Context())
	if err != nil || time.Since(began) > 30*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	var pid int
	fmt.Sscan(string(out.Stdout), &pid)
	defer unix.Kill(pid, unix.SIGKILL)
	if err := unix.Kill(pid, 0); err != nil {
		t.Errorf("what the program left running: %v", err)
	}
}

func TestDeadlineKillsTheGroup(t *testing.T) {
	for _, l := range []*program.Lock{nil, lock(t)} {
		pidFile := filepath.Join(t.TempDir(), "pid")
		c := script(`sleep 600 & echo $! >` + pidFile + `; echo said; wait`)
		c.Lock = l
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		out, err := c.Run(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || out.Signal != syscall.SIGKILL || string(out.Stdout) != "said\n" {
			t.Errorf("lock %t: %+v, %v", l != nil, out, err)
		}
		awaitGone(t, pidFile)
	}
}

// slow is a context whose end comes after its deadline, as it does where the timers of two fire in any order.
type slow struct {
	context.Context
	deadline time.Time
}

func (s slow) Deadline() (time.Time, bool) { return s.deadline, true }

// TestDeadlineIsTold: a program that its deadline killed was not killed by somebody else, whichever timer was first.
func TestDeadlineIsTold(t *testing.T) {
	c := script(`sleep 600`)
	c.Lock = lock(t)
	out, err := c.Run(slow{t.Context(), time.Now().Add(100 * time.Millisecond)})
	if !errors.Is(err, context.DeadlineExceeded) || out.Signal != syscall.SIGKILL {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestKilledProgramTakesItsChildrenAlong: they would go on with half of the work.
func TestKilledProgramTakesItsChildrenAlong(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	c := script(`sleep 600 & echo $! >` + pidFile + `; kill -9 $$`)
	c.Lock = lock(t)
	out, err := c.Run(t.Context())
	if err != nil || out.Signal != syscall.SIGKILL || out.Code != -1 {
		t.Errorf("%+v, %v", out, err)
	}
	awaitGone(t, pidFile)
}

func awaitGone(t *testing.T, pidFile string) {
	t.Helper()
	data, err := os.ReadFile(pidFile)
	var pid int
	if _, scan := fmt.Sscan(string(data), &pid); err != nil || scan != nil {
		t.Fatalf("pid %q: %v", data, errors.Join(err, scan))
	}
	await.Until(t, 10*time.Second, "the program's child dies", func() bool {
		st, err := sys.ReadProcStat(pid)
		return err != nil || st.State == 'Z'
	})
}

// TestCancelledProgramFinishes: the next taker of the lock waits for it, in the same process.
func TestCancelledProgramFinishes(t *testing.T) {
	dir := t.TempDir()
	locks := program.NewLocks(dir)
	first, err := locks.Take(t.Context(), "it", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	done := filepath.Join(t.TempDir(), "done")
	c := script(`touch ` + done + `.begun; sleep 1; echo output >/dev/stdout; echo done >` + done)
	c.Lock = first
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(done + ".begun"); err == nil {
				cancel()
				return
			}
		}
	}()
	if _, err := c.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := c.Run(t.Context()); !errors.Is(err, sys.ErrLocked) {
		t.Errorf("second run with the lock of one that was left running: %v", err)
	}
	first.Release()
	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := locks.Take(impatient, "it", time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("impatient taker: %v", err)
	}
	next, err := locks.Take(t.Context(), "it", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(done); err != nil {
		t.Errorf("the lock was free before the program had ended: %v", err)
	}
	next.Release()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestProgramOutlivesItsDaemon kills the process that runs a program, which goes on, finds its outputs open, and is
// waited for by the next process.
func TestProgramOutlivesItsDaemon(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	kill := startDying(t, dir, `echo begun >begun; sleep 1; head -c 200000 /dev/zero; echo more >/dev/stderr; echo $$ >done`, work)
	kill()
	l, err := program.NewLocks(dir).Take(t.Context(), "it", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if _, err := os.Stat(filepath.Join(work, "done")); err != nil {
		t.Errorf("the program did not finish, or was not waited for: %v", err)
	}
}

// TestLimitOutlivesTheDaemon: the next process ends what hangs.
func TestLimitOutlivesTheDaemon(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	kill := startDying(t, dir, `sleep 600 & echo $! >child; echo begun >begun; sleep 600; echo >done`, work)
	kill()
	l, err := program.NewLocks(dir).Take(t.Context(), "it", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	awaitGone(t, filepath.Join(work, "child"))
}

// TestDaemonsOfADeadDaemonsProgram: what a program left running on purpose is not waited for.
func TestDaemonsOfADeadDaemonsProgram(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	kill := startDying(t, dir, `setsid sleep 600 & echo $! >child; echo begun >begun`, work)
	defer func() {
		data, _ := os.ReadFile(filepath.Join(work, "child"))
		var pid int
		fmt.Sscan(string(data), &pid)
		unix.Kill(pid, unix.SIGKILL)
	}()
	kill()
	began := time.Now()
	l, err := program.NewLocks(dir).Take(t.Context(), "it", 10*time.Minute)
	if err != nil || time.Since(began) > time.Minute {
		t.Fatalf("%v after %s", err, time.Since(began))
	}
	l.Release()
}

const dyingEnv = "CRI_TEST_DYING"

// startDying runs a script with the lock "it" of dir in another process; kill ends that process once the script has
// written the file begun.
func startDying(t *testing.T, dir, text, work string) (kill func()) {
	t.Helper()
	daemon := exec.Command("/proc/self/exe", "-test.run=^TestPlayDying$")
	daemon.Env = append(os.Environ(), dyingEnv+"="+dir+"\x1f"+"cd "+work+"; "+text)
	var out bytes.Buffer
	daemon.Stdout, daemon.Stderr = &out, &out
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		await.Until(t, 10*time.Second, "the program has begun", func() bool {
			data, _ := os.ReadFile(filepath.Join(work, "begun"))
			return len(data) > 0
		})
		daemon.Process.Kill()
		daemon.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	}
}

// TestPlayDying is the process that startDying starts.
func TestPlayDying(t *testing.T) {
	dir, text, ok := strings.Cut(os.Getenv(dyingEnv), "\x1f")
	if !ok {
		return
	}
	l, err := program.NewLocks(dir).Take(t.Context(), "it", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c := script(text)
	c.Lock = l
	out, err := c.Run(t.Context())
	fmt.Println("ended", out, err)
	select {} // until it is killed
}

func TestLocksOfOneProcess(t *testing.T) {
	locks := program.NewLocks(filepath.Join(t.TempDir(), "made", "when", "needed"))
	most, now := 0, 0
	done := make(chan error, 20)
	for range cap(done) {
		go func() {
			l, err := locks.Take(context.Background(), "it", time.Minute)
			if err == nil {
				now++
				most = max(most, now)
				time.Sleep(time.Millisecond)
				now--
				l.Release()
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if most != 1 {
		t.Errorf("%d had the lock at a time", most)
	}
}
