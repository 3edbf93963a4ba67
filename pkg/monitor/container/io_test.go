// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestTerminalIsOpenedAgain has a container that closes its terminal and opens it
// again: what it writes then is logged and shown, and never makes it wait.
func TestTerminalIsOpenedAgain(t *testing.T) {
	n := monitornode.Start(t)
	gate := filepath.Join(n.Dir, "gate")
	await := func(step int) string { return fmt.Sprintf("until [ -e %s%d ]; do sleep 0.01; done; ", gate, step) }
	n.Launch(n.Terminal("c", "sh", "-c", "T=$(tty); echo one; exec <&- >&- 2>&-; "+await(1)+
		"exec >$T; echo two; exec >&-; "+await(2)+
		"for i in 1 2 3; do echo again $i >$T; done; exec >$T; head -c 300000 /dev/zero | tr '\\0' x; echo; exit 4"))
	a, err := n.Client.Attach(n.Ctx(), "c", monitor.AttachOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	shown := make(chan string, 1)
	go func() { b, _ := io.ReadAll(a.Stdout); shown <- string(b) }()
	open := func(step int) {
		t.Helper()
		if err := os.WriteFile(gate+strconv.Itoa(step), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.WaitLog("c", "one")
	time.Sleep(50 * time.Millisecond) // until it is closed; earlier tests less
	before := busy(n)
	time.Sleep(500 * time.Millisecond)
	if ticks := busy(n) - before; ticks > 20 {
		t.Errorf("half a second without an opener took %d ticks of processor time", ticks)
	}
	open(1)
	n.WaitLog("c", "two")
	open(2)
	if e := n.Exit(); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
	logged := strings.ReplaceAll(monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"), "\r", "")
	if want := "one\ntwo\nagain 1\nagain 2\nagain 3\n" + strings.Repeat("x", 300000) + "\n"; logged != want {
		t.Errorf("logged %d bytes, want %d: %.60q", len(logged), len(want), logged)
	}
	if got := <-shown; !strings.Contains(got, "two\r\nagain 1\r\nagain 2\r\nagain 3\r\nxxx") {
		t.Errorf("shown: %.60q", got)
	}
}

// busy is the processor time of the monitor, in ticks of 10 ms.
func busy(n *monitornode.Node) int {
	n.T.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID))
	if err != nil {
		n.T.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}

func TestAttachFansOut(t *testing.T) {
	n := monitornode.Start(t)
	gate := filepath.Join(n.Dir, "gate")
	n.Launch(n.Spec("c", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo out; echo err >&2"))
	var a [3]*monitor.Attachment
	for i := range a {
		var err error
		if a[i], err = n.Client.Attach(n.Ctx(), "c", monitor.AttachOptions{Stdin: true, Stdout: true, Stderr: i < 2}); err != nil {
			t.Fatal(err)
		}
		defer a[i].Close()
		if a[i].Stdin != nil {
			t.Error("stdin without having asked for it at launch")
		}
	}
	a[1].Close()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := monitornode.ReadAll(t, a[0].Stdout) + monitornode.ReadAll(t, a[0].Stderr) + monitornode.ReadAll(t, a[2].Stdout); got != "out\nerr\nout\n" {
		t.Errorf("read %q", got)
	}
	if a[2].Stderr != nil {
		t.Error("stderr without having asked for it")
	}
	n.Exit()
	if _, err := n.Client.Attach(n.Ctx(), "c", monitor.AttachOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("attach after the end: %v", err)
	}
}

func TestStdin(t *testing.T) {
	tests := []struct {
		name string
		once bool
		end  func(n *monitornode.Node, a *monitor.Attachment)
	}{
		{"close_stdin", false, func(n *monitornode.Node, a *monitor.Attachment) {
			if err := n.Client.CloseStdin(n.Ctx(), "close_stdin"); err != nil {
				n.T.Error(err)
			}
		}},
		{"once-detach", true, func(_ *monitornode.Node, a *monitor.Attachment) { a.Close() }},
		{"once-half", true, func(_ *monitornode.Node, a *monitor.Attachment) { a.Stdin.Close() }},
	}
	n := monitornode.Start(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n.T = t
			l := n.Spec(tt.name, "sh", "-c", "cat; exit 9")
			l.Stdin, l.StdinOnce = true, tt.once
			n.Launch(l)
			a, err := n.Client.Attach(n.Ctx(), tt.name, monitor.AttachOptions{Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			fmt.Fprint(a.Stdin, "hello\n")
			n.WaitLog(tt.name, "hello")
			tt.end(n, a)
			if e := n.Exit(); e.Code != 9 {
				t.Errorf("exit %+v", e)
			}
		})
	}
	t.Run("stays open", func(t *testing.T) {
		n.T = t
		known := monitornode.ExitKnownAfterReap(t)
		l := n.Spec("open", "sh", "-c", "while read x; do echo got $x; done; exit 9")
		l.Stdin = true
		n.Launch(l)
		for i := range 2 {
			a, err := n.Client.Attach(n.Ctx(), "open", monitor.AttachOptions{Stdin: true})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(a.Stdin, i)
			a.Close()
			n.WaitLog("open", fmt.Sprint("got ", i))
			n.KillMonitor() // the client's copy keeps the pipe from ending
			n.Ready()
		}
		if err := n.Client.CloseStdin(n.Ctx(), "open"); err != nil {
			t.Error(err)
		}
		if e := n.Exit(); e.Code != 9 && (known || !e.Unknown) {
			t.Errorf("exit %+v", e)
		}
	})
}

func TestNoStdio(t *testing.T) {
	n := monitornode.Start(t)
	l := n.Spec("pause", "sh", "-c", "ls -l /proc/self/fd >"+n.Dir+"/fds; exit 4")
	l.Stdio, l.LogPath = false, ""
	n.Launch(l)
	if e := n.Exit(); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
	b, err := os.ReadFile(n.Dir + "/fds")
	if err != nil || strings.Count(string(b), "/dev/null") != 2 { // 1 is the file
		t.Errorf("descriptors:\n%s%v", b, err)
	}
}

func TestContainerInheritsNothing(t *testing.T) {
	n := monitornode.Start(t)
	n.Launch(n.Spec("first", "sleep", "1000"))
	n.Launch(n.Spec("c", "sh", "-c", "ls /proc/$$/fd; exec ls -l /proc/self/fd"))
	n.Exit()
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"); !strings.HasPrefix(got, "0\n1\n2\n") || strings.Contains(got, "socket:") {
		t.Errorf("descriptors:\n%s", got)
	}
	if err := n.Client.Signal(n.Ctx(), "first", 9); err != nil {
		t.Error(err)
	}
	n.Exit()
}

func TestSlowAttachedClientIsDropped(t *testing.T) {
	n := monitornode.Start(t)
	const lines = 30_000
	n.Launch(n.Spec("c", "sh", "-c", "sleep 0.2; exec "+monitornode.Self(t)+" "+monitornode.AsCounter+" "+fmt.Sprint(lines)))
	a, err := n.Client.Attach(n.Ctx(), "c", monitor.AttachOptions{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if e := n.Exit(); e.Code != 7 {
		t.Errorf("exit %+v", e)
	}
	monitornode.CheckCounter(t, monitornode.ReadLog(t, n.LogPath("c")), lines)
	if _, err := io.Copy(io.Discard, a.Stdout); !errdefs.IsResourceExhausted(err) {
		t.Errorf("read ended with %v", err)
	}
}

func TestReopenLog(t *testing.T) {
	n := monitornode.Start(t)
	l := n.Spec("c", "sh", "-c", "while read x; do echo $x; done")
	l.Stdin = true
	n.Launch(l)
	a, err := n.Client.Attach(n.Ctx(), "c", monitor.AttachOptions{Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	fmt.Fprintln(a.Stdin, "one")
	n.WaitLog("c", "one")
	if err := os.Rename(n.LogPath("c"), n.LogPath("c")+".1"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(a.Stdin, "two") // still to the old file
	monitornode.Eventually(t, "the old log", func() bool {
		b, err := os.ReadFile(n.LogPath("c") + ".1")
		return err == nil && bytes.Contains(b, []byte("two"))
	})
	if err := n.Client.ReopenLog(n.Ctx(), "c"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(a.Stdin, "three")
	n.WaitLog("c", "three")
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"); got != "three\n" {
		t.Errorf("new log %q", got)
	}
	st, err := os.Stat(n.LogPath("c"))
	if err != nil || st.Mode().Perm()&^0o640 != 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := n.Client.ReopenLog(n.Ctx(), "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("reopen of nobody: %v", err)
	}
	n.Client.CloseStdin(n.Ctx(), "c")
	n.Exit()
}

func TestFullDiskStopsNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	n := monitornode.Start(t)
	small := filepath.Join(n.Dir, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cri-test", small, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	gate := filepath.Join(n.Dir, "gate")
	l := n.Spec("c", "sh", "-c", monitornode.Self(t)+" "+monitornode.AsCounter+" 20000; until [ -e "+gate+" ]; do sleep 0.01; done; echo the end")
	l.LogPath = filepath.Join(small, "log")
	blocker := filepath.Join(small, "blocker")
	if err := os.WriteFile(blocker, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Launch(l)
	monitornode.Eventually(t, "the message", func() bool {
		b, err := os.ReadFile(n.Dir + "/log")
		return err == nil && bytes.Contains(b, []byte("not writable"))
	})
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := n.Exit(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	monitornode.ReadLog(t, l.LogPath) // every line is whole
	// Once for each time that it fills up: a small batch may still fit where a large one did not.
	b, err := os.ReadFile(n.Dir + "/log")
	if err != nil || bytes.Count(b, []byte("not writable")) > bytes.Count(b, []byte("writable again"))+1 {
		t.Errorf("monitor's log: %s%v", b, err)
	}
}

func TestExec(t *testing.T) {
	n := monitornode.Start(t)
	run := func(e monitor.Exec) (*monitor.Process, error) { return n.Client.Exec(n.Ctx(), e) }
	runtime := func(console string, command ...string) monitor.Exec {
		pid := filepath.Join(n.Dir, "exec.pid")
		return monitor.Exec{Argv: append([]string{monitornode.Self(t), monitornode.AsRuntime, pid, console}, command...), Env: os.Environ(), PidFile: pid}
	}
	terminate := func(t *testing.T, p *monitor.Process) {
		t.Helper()
		if err := p.Signal(15); err != nil {
			t.Error(err)
		}
		if e, err := p.Wait(n.Ctx()); err != nil || e.Signal != 15 {
			t.Errorf("exit %+v, %v", e, err)
		}
	}
	t.Run("stdio and code", func(t *testing.T) {
		inR, inW, _ := os.Pipe()
		outR, outW, _ := os.Pipe()
		e := runtime("-", "sh", "-c", "cat; exit 5")
		e.Stdin, e.Stdout = inR, outW
		p, err := run(e)
		if err != nil {
			t.Fatal(err)
		}
		inR.Close()
		outW.Close()
		fmt.Fprint(inW, "hello")
		inW.Close()
		if got := monitornode.ReadAll(t, outR); got != "hello" {
			t.Errorf("read %q", got)
		}
		if e, err := p.Wait(n.Ctx()); err != nil || e.Code != 5 || e.Pid != p.Pid {
			t.Errorf("exit %+v, %v", e, err)
		}
		if err := p.Signal(9); !errdefs.IsNotFound(err) {
			t.Errorf("signal after the end: %v", err)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		e := runtime("{console}", "sh", "-c", "[ -t 0 ] && echo is a tty; exit 6")
		e.Terminal = true
		p, err := run(e)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Console.Close()
		got, err := io.ReadAll(p.Console)
		if string(got) != "is a tty\r\n" || !errors.Is(err, unix.EIO) {
			t.Errorf("read %q, %v", got, err)
		}
		if e, err := p.Wait(n.Ctx()); err != nil || e.Code != 6 {
			t.Errorf("exit %+v, %v", e, err)
		}
	})
	t.Run("direct", func(t *testing.T) {
		p, err := run(monitor.Exec{Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		terminate(t, p)
	})
	t.Run("reaped by the program", func(t *testing.T) {
		pid := filepath.Join(n.Dir, "exec.pid")
		p, err := run(monitor.Exec{Argv: []string{"/bin/sh", "-c", "sh -c 'exit 9' & echo $! >" + pid + "; wait"}, PidFile: pid})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := p.Wait(n.Ctx()); err == nil || !e.Unknown || e.Code != 255 || e.Pid != p.Pid {
			t.Errorf("exit %+v, %v", e, err)
		}
	})
	t.Run("left late", func(t *testing.T) { // see TestProgramLeavesItsChildLate
		pid := filepath.Join(n.Dir, "exec.pid")
		p, err := run(monitor.Exec{Argv: []string{"/bin/sh", "-c", leavesLate, pid}, PidFile: pid})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := p.Wait(n.Ctx()); err != nil || e.Unknown || e.Code != 9 {
			t.Errorf("exit %+v, %v", e, err)
		}
	})
	t.Run("another's child", func(t *testing.T) {
		other := exec.CommandContext(n.Ctx(), "/bin/sleep", "1000")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		pid := filepath.Join(n.Dir, "exec.pid")
		p, err := run(monitor.Exec{Argv: []string{"/bin/sh", "-c", fmt.Sprintf("echo %d >%s", other.Process.Pid, pid)}, PidFile: pid})
		if err != nil {
			t.Fatal(err)
		}
		terminate(t, p)
		_ = other.Wait()
	})
	t.Run("failure", func(t *testing.T) {
		var failed *monitor.LaunchError
		if _, err := run(runtime("-", "fail", "3")); !errors.As(err, &failed) || failed.ExitCode != 3 {
			t.Errorf("error %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := n.Client.Exec(ctx, runtime("-", "hang")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		monitornode.Eventually(t, "the hanging program to be killed", func() bool { return n.Children() == 0 })
	})
	t.Run("ends with the monitor", func(t *testing.T) {
		p, err := run(monitor.Exec{Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(p.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		n.KillMonitor()
		if e, err := p.Wait(n.Ctx()); !errdefs.IsUnavailable(err) || !e.Unknown {
			t.Errorf("exit %+v, %v", e, err)
		}
		if k, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); k != 1 {
			t.Errorf("the process lives on: %v", err)
		}
		n.Ready()
	})
	t.Run("ends with the client", func(t *testing.T) {
		p, err := run(monitor.Exec{Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		n.Stop()
		if _, err := p.Wait(n.Ctx()); !errdefs.IsUnavailable(err) {
			t.Errorf("wait: %v", err)
		}
		monitornode.Eventually(t, "the process to be killed", func() bool { return n.Children() == 0 })
	})
}
