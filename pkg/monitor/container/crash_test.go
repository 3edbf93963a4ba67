// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

func TestKilledMonitorLosesNothing(t *testing.T) {
	known := monitornode.ExitKnownAfterReap(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := monitornode.Start(t)
	gate := n.Dir + "/gate"
	n.Launch(n.Spec("writer", self, monitornode.AsCounter, gate))
	for range 20 {
		time.Sleep(time.Duration(5+rand.IntN(30)) * time.Millisecond)
		n.KillMonitor()
		n.Ready()
	}
	lines := monitornode.EndCounter(t, gate)
	e := n.Exit()
	if (e.Code != 7 || e.Unknown) && (known || !e.Unknown) {
		t.Errorf("exit %+v", e)
	}
	monitornode.CheckCounter(t, monitornode.ReadLog(t, n.LogPath("writer")), lines)
}

func TestExitWhileNoMonitorLives(t *testing.T) {
	if !monitornode.ExitKnownAfterReap(t) {
		t.Skip("needs PIDFD_INFO_EXIT (Linux 6.15)")
	}
	tests := []struct {
		script       string
		code, signal int
	}{{"exit 42", 42, 0}, {"kill -9 $$", 137, 9}, {"exit 0", 0, 0}}
	n := monitornode.Start(t)
	for i, tt := range tests {
		t.Run(tt.script, func(t *testing.T) {
			n.T = t
			id := fmt.Sprint("c", i)
			gate := n.Dir + "/gate" + id
			l := n.Launch(n.Spec(id, "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo last words; "+tt.script))
			// Stopped monitor: it can't see the end; killed: nor can it come back to it.
			_ = unix.Kill(n.PID, unix.SIGSTOP)
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(l.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
			n.KillMonitor()
			n.Ready()
			if e := n.Exit(); e.ID != id || e.Code != tt.code || e.Signal != tt.signal || e.Unknown {
				t.Errorf("exit %+v, want code %d", e, tt.code)
			}
			if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath(id)), "stdout"); got != "last words\n" {
				t.Errorf("log %q", got)
			}
		})
	}
}

func TestExitAfterTakeover(t *testing.T) {
	known := monitornode.ExitKnownAfterReap(t)
	n := monitornode.Start(t)
	gate := n.Dir + "/gate"
	n.Launch(n.Spec("c", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo on; exit 5"))
	n.KillMonitor()
	n.Ready()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := n.Exit()
	if e.Code != 5 && (known || !e.Unknown) {
		t.Errorf("exit %+v", e)
	}
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"); got != "on\n" {
		t.Errorf("log %q", got)
	}
}

// TestAttachToLostTerminal: there is nothing to write to, which is no error.
func TestAttachToLostTerminal(t *testing.T) {
	n := monitornode.Start(t)
	n.Launch(n.Terminal("tty", "sh", "-c", "trap '' HUP; echo ready; while :; do sleep 1; done"))
	n.WaitLog("tty", "ready")
	n.Stop() // the client lets go of the terminal that it kept
	n.KillMonitor()
	n.Connect()
	a, err := n.Client.Attach(n.Ctx(), "tty", monitor.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if a.Stdin != nil {
		t.Error("stdin of a container without its terminal")
	}
}

func TestTerminalSurvivesMonitor(t *testing.T) {
	known := monitornode.ExitKnownAfterReap(t)
	n := monitornode.Start(t)
	n.Launch(n.Terminal("tty", "sh", "-c", "stty -echo; echo ready; while read line; do echo got $line; [ $line = end ] && exit 3; done"))
	n.WaitLog("tty", "ready")
	a, err := n.Client.Attach(n.Ctx(), "tty", monitor.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(a.Stdin, "one")
	buf := make([]byte, 64)
	k, err := a.Stdout.Read(buf)
	if err != nil || !strings.Contains(string(buf[:k]), "got one") {
		t.Fatalf("read %q, %v", buf[:k], err)
	}
	a.Close()
	n.KillMonitor()
	n.Ready()
	if a, err = n.Client.Attach(n.Ctx(), "tty", monitor.AttachOptions{Stdin: true, Stdout: true}); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := n.Client.Resize(n.Ctx(), "tty", 120, 40); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(a.Stdin, "end")
	if got := monitornode.ReadAll(t, a.Stdout); !strings.Contains(got, "got end") {
		t.Errorf("read %q", got)
	}
	if e := n.Exit(); e.Code != 3 && (known || !e.Unknown) { // its zombie may still be there to be read
		t.Errorf("exit %+v", e)
	}
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("tty")), "stdout"); strings.ReplaceAll(got, "\r", "") != "ready\ngot one\ngot end\n" {
		t.Errorf("log %q", got)
	}
}

// TestMonitorDiesDuringLaunch kills it before and after the pid file is there.
func TestMonitorDiesDuringLaunch(t *testing.T) {
	known := monitornode.ExitKnownAfterReap(t)
	n := monitornode.Start(t)
	launch := func(l monitor.Launch) <-chan error {
		failed := make(chan error, 1)
		go func() {
			_, err := n.Client.Launch(n.Ctx(), l)
			failed <- err
		}()
		return failed
	}
	t.Run("before", func(t *testing.T) {
		l := n.Spec("before", "hang")
		failed := launch(l)
		var fd int
		monitornode.Eventually(t, "the runtime", func() bool {
			b, _ := os.ReadFile(l.PidFile + ".hangs")
			pid, err := strconv.Atoi(string(b))
			if err == nil {
				fd, err = unix.PidfdOpen(pid, 0)
			}
			return err == nil
		})
		defer unix.Close(fd)
		n.KillMonitor()
		if err := <-failed; !errdefs.IsUnavailable(err) {
			t.Errorf("launch: %v", err)
		}
		if k, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); k != 1 {
			t.Errorf("the runtime lives on: %v", err)
		}
		n.Ready()
		if got, err := n.Client.List(n.Ctx()); err != nil || len(got) != 0 {
			t.Errorf("list %v, %v", got, err)
		}
	})
	t.Run("after", func(t *testing.T) {
		gate := n.Dir + "/gate"
		l := n.Spec("cri-after", "linger", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo on; exit 5")
		l.Cgroups = []string{makeCgroup(t, l.ID)}
		failed := launch(l)
		monitornode.Eventually(t, "the pid file", func() bool {
			b, err := os.ReadFile(l.PidFile)
			return err == nil && len(b) > 0
		})
		enter(t, l.Cgroups[0], l.PidFile)
		n.KillMonitor()
		if err := <-failed; !errdefs.IsUnavailable(err) {
			t.Errorf("launch: %v", err)
		}
		n.Ready()
		got, err := n.Client.List(n.Ctx())
		if err != nil || len(got) != 1 || got[0].ID != "cri-after" || got[0].Pid == 0 {
			t.Fatalf("list %v, %v", got, err)
		}
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if e := n.Exit(); e.ID != "cri-after" || e.Code != 5 && (known || !e.Unknown) {
			t.Errorf("exit %+v", e)
		}
		if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("cri-after")), "stdout"); got != "on\n" {
			t.Errorf("log %q", got)
		}
	})
}

// TestPidOfAnother has a launch cut off, and an innocent process under the pid
// that the launch left in its pid file.
func TestPidOfAnother(t *testing.T) {
	n := monitornode.Start(t)
	innocent := exec.Command("sleep", "1000")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = innocent.Wait(); close(ended) }()
	defer func() { _ = innocent.Process.Kill(); <-ended }()
	for id, cgroups := range map[string][]string{
		"cri-v1":   {"/sys/fs/cgroup/memory/kubepods/pod1/cri-v1", "/sys/fs/cgroup/pids/kubepods/pod1/cri-v1"},
		"cri-v2":   {"/sys/fs/cgroup/kubepods.slice/kubepods-pod1.slice/cri-v2.scope"},
		"cri-none": nil,
	} {
		l := n.Spec(id, "hang")
		l.Cgroups, l.KillAll = cgroups, true
		failed := make(chan error, 1)
		go func() { _, err := n.Client.Launch(n.Ctx(), l); failed <- err }()
		monitornode.Eventually(t, "the runtime", func() bool { _, err := os.Stat(l.PidFile + ".hangs"); return err == nil })
		if err := os.WriteFile(l.PidFile, []byte(strconv.Itoa(innocent.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
		n.KillMonitor()
		<-failed
		n.Ready()
		if got, err := n.Client.List(n.Ctx()); err != nil || len(got) != 0 {
			t.Errorf("%s: list %v, %v", id, got, err)
		}
		if err := n.Client.Signal(n.Ctx(), id, 9); !errdefs.IsNotFound(err) {
			t.Errorf("%s: signal: %v", id, err)
		}
	}
	select {
	case <-ended:
		t.Error("the innocent process was killed")
	case <-time.After(100 * time.Millisecond):
	}
}

// makeCgroup makes a cgroup for the time of the test.
func makeCgroup(t *testing.T, name string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a cgroup")
	}
	dirs := cgroup.Dirs("/" + name)
	if len(dirs) == 0 {
		t.Skip("no cgroups are mounted")
	}
	dir := dirs[len(dirs)-1]
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cgroup.End(context.Background(), "/"+name); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// enter puts the process that the file names into a cgroup.
func enter(t *testing.T, dir, pidFile string) {
	t.Helper()
	pid, err := os.ReadFile(pidFile)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestNobodySawTheEnd has neither daemon nor monitor alive when it comes.
func TestNobodySawTheEnd(t *testing.T) {
	n := monitornode.Start(t)
	gate := n.Dir + "/gate"
	l := n.Launch(n.Spec("c", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; exit 5"))
	fd, err := unix.PidfdOpen(l.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n.Stop()
	n.KillMonitor()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
	monitornode.Eventually(t, "init to reap", func() bool { return unix.Kill(l.Pid, 0) != nil })
	n.Connect()
	if e := n.Exit(); e.ID != "c" || e.Code != 255 || !e.Unknown || e.Pid != l.Pid {
		t.Errorf("exit %+v", e)
	}
}

// TestBothDieUnderAWriter kills daemon and monitor together.
func TestBothDieUnderAWriter(t *testing.T) {
	known := monitornode.ExitKnownAfterReap(t)
	n := monitornode.Start(t)
	gate := n.Dir + "/gate"
	n.Launch(n.Spec("writer", monitornode.Self(t), monitornode.AsCounter, gate))
	for range 5 {
		n.WaitLog("writer", "stdout")
		n.Stop()
		n.KillMonitor()
		n.Connect()
	}
	lines := monitornode.EndCounter(t, gate)
	if e := n.Exit(); e.Code != 7 && (known || !e.Unknown) {
		t.Errorf("exit %+v", e)
	}
	monitornode.CheckCounter(t, monitornode.ReadLog(t, n.LogPath("writer")), lines)
}
