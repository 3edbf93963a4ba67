// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// exitKnownAfterReap reports whether this kernel tells the exit of a reaped
// process that was no child (Linux 6.15).
func exitKnownAfterReap(t *testing.T) bool {
	t.Helper()
	p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	return unix.IoctlPidfdInfo(fd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
}

// checkCounter compares a log with what beCounter writes.
func checkCounter(t *testing.T, lines []logLine, n int) {
	t.Helper()
	got := strings.Split(strings.TrimSuffix(text(lines, "stdout"), "\n"), "\n")
	for i, line := range got {
		if want := fmt.Sprintf("line %08d %s", i, strings.Repeat("x", i%97)); line != want {
			t.Fatalf("line %d of %d is %.60q, want %.60q", i, len(got), line, want)
		}
	}
	if len(got) != n {
		t.Fatalf("%d lines, want %d", len(got), n)
	}
}

func TestKilledMonitorLosesNothing(t *testing.T) {
	known := exitKnownAfterReap(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t)
	gate := n.dir + "/gate"
	n.launch(n.spec("writer", self, asCounter, gate))
	for range 20 {
		time.Sleep(time.Duration(5+rand.IntN(30)) * time.Millisecond)
		n.killMonitor()
		n.ready()
	}
	lines := endCounter(t, gate)
	e := n.exit()
	if (e.Code != 7 || e.Unknown) && (known || !e.Unknown) {
		t.Errorf("exit %+v", e)
	}
	checkCounter(t, readLog(t, n.logPath("writer")), lines)
}

func TestExitWhileNoMonitorLives(t *testing.T) {
	if !exitKnownAfterReap(t) {
		t.Skip("needs PIDFD_INFO_EXIT (Linux 6.15)")
	}
	tests := []struct {
		script       string
		code, signal int
	}{{"exit 42", 42, 0}, {"kill -9 $$", 137, 9}, {"exit 0", 0, 0}}
	n := startNode(t)
	for i, tt := range tests {
		t.Run(tt.script, func(t *testing.T) {
			n.t = t
			id := fmt.Sprint("c", i)
			gate := n.dir + "/gate" + id
			l := n.launch(n.spec(id, "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo last words; "+tt.script))
			// Stopped monitor: it can't see the end; killed: nor can it come back to it.
			_ = unix.Kill(n.pid, unix.SIGSTOP)
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(l.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
			n.killMonitor()
			n.ready()
			if e := n.exit(); e.ID != id || e.Code != tt.code || e.Signal != tt.signal || e.Unknown {
				t.Errorf("exit %+v, want code %d", e, tt.code)
			}
			if got := text(readLog(t, n.logPath(id)), "stdout"); got != "last words\n" {
				t.Errorf("log %q", got)
			}
		})
	}
}

func TestExitAfterTakeover(t *testing.T) {
	known := exitKnownAfterReap(t)
	n := startNode(t)
	gate := n.dir + "/gate"
	n.launch(n.spec("c", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo on; exit 5"))
	n.killMonitor()
	n.ready()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := n.exit()
	if known && e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
	if got := text(readLog(t, n.logPath("c")), "stdout"); got != "on\n" {
		t.Errorf("log %q", got)
	}
}

func TestExitsAreReplayedUntilAcknowledged(t *testing.T) {
	n := startNode(t)
	refused := errors.New("the disk is full")
	n.refuse = func(e monitor.Exit) error {
		if e.Seq > 1 {
			return refused
		}
		return nil
	}
	for i := range 3 {
		n.launch(n.spec(fmt.Sprint("c", i), "sh", "-c", fmt.Sprint("exit ", i)))
		for e := n.next(); e.Seq != uint64(i+1); e = n.next() {
			if e.Seq > uint64(i) { // the refused ones come again
				t.Fatalf("exit %+v", e)
			}
		}
	}
	stop := func() {
		n.stop()
		for len(n.exits) > 0 { // refused again meanwhile
			<-n.exits
		}
	}
	for _, again := range []func(){func() {}, n.killMonitor} {
		stop()
		again()
		n.connect()
		for i := 1; i < 3; i++ {
			if e := n.next(); e.Code != i || e.Seq != uint64(i+1) {
				t.Errorf("replayed %+v, want code %d", e, i)
			}
		}
	}
	if err := n.client.Forget(n.ctx(), "c1"); err != nil {
		t.Fatal(err)
	}
	stop()
	n.refuse = nil
	n.connect()
	if e := n.next(); e.ID != "c2" {
		t.Errorf("replayed %+v, want c2 alone", e)
	}
	n.launch(n.spec("c3", "true"))
	if e := n.next(); e.ID != "c3" || e.Seq != 4 {
		t.Errorf("next exit %+v", e)
	}
}

// An exit that cannot be recorded is handed over again until it can, holds no
// other up, and is acknowledged together with those that came after it.
func TestRefusedExitComesAgain(t *testing.T) {
	n := startNode(t)
	var refusals atomic.Int32
	n.refuse = func(e monitor.Exit) error {
		if e.ID == "c0" && refusals.Add(1) <= 2 {
			return errors.New("the disk is full")
		}
		return nil
	}
	for _, id := range []string{"c0", "c1"} {
		n.launch(n.spec(id, "true"))
		if e := n.next(); e.ID != id {
			t.Fatalf("exit %+v, want %s", e, id)
		}
	}
	eventually(t, "c0 alone is not recorded", func() bool { return slices.Equal(n.client.Ended(), []string{"c0"}) })
	for range 2 {
		if e := n.next(); e.ID != "c0" {
			t.Fatalf("exit %+v, want c0 again", e)
		}
	}
	eventually(t, "both are acknowledged", func() bool { return monitor.Acknowledged(n.client, 1) && monitor.Acknowledged(n.client, 2) })
	n.stop()
	n.connect()
	n.launch(n.spec("c2", "true"))
	if e := n.next(); e.ID != "c2" {
		t.Errorf("replayed %+v", e)
	}
}

// The daemon is told of each monitor that takes over, after the exits that this
// one reports, and not of its own reconnection to the same one.
func TestSuccessorIsReported(t *testing.T) {
	n := startNode(t)
	if got := n.taken.Load(); got != 0 {
		t.Errorf("%d successors at the first connection", got)
	}
	for i := range int32(2) {
		n.killMonitor()
		n.ready()
		eventually(t, "the successor is reported", func() bool { return n.taken.Load() == i+1 })
	}
}

func TestTerminalSurvivesMonitor(t *testing.T) {
	known := exitKnownAfterReap(t)
	n := startNode(t)
	n.launch(n.terminal("tty", "sh", "-c", "stty -echo; echo ready; while read line; do echo got $line; [ $line = end ] && exit 3; done"))
	n.waitLog("tty", "ready")
	a, err := n.client.Attach(n.ctx(), "tty", monitor.AttachOptions{Stdin: true, Stdout: true})
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
	n.killMonitor()
	n.ready()
	if a, err = n.client.Attach(n.ctx(), "tty", monitor.AttachOptions{Stdin: true, Stdout: true}); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := n.client.Resize(n.ctx(), "tty", 120, 40); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(a.Stdin, "end")
	if got := readAll(t, a.Stdout); !strings.Contains(got, "got end") {
		t.Errorf("read %q", got)
	}
	if e := n.exit(); e.Code != 3 && (known || !e.Unknown) { // its zombie may still be there to be read
		t.Errorf("exit %+v", e)
	}
	if got := text(readLog(t, n.logPath("tty")), "stdout"); strings.ReplaceAll(got, "\r", "") != "ready\ngot one\ngot end\n" {
		t.Errorf("log %q", got)
	}
}

// TestMonitorDiesDuringLaunch kills it before and after the pid file is there.
func TestMonitorDiesDuringLaunch(t *testing.T) {
	n := startNode(t)
	launch := func(l monitor.Launch) <-chan error {
		failed := make(chan error, 1)
		go func() {
			_, err := n.client.Launch(n.ctx(), l)
			failed <- err
		}()
		return failed
	}
	t.Run("before", func(t *testing.T) {
		l := n.spec("before", "hang")
		failed := launch(l)
		var fd int
		eventually(t, "the runtime", func() bool {
			b, _ := os.ReadFile(l.PidFile + ".hangs")
			pid, err := strconv.Atoi(string(b))
			if err == nil {
				fd, err = unix.PidfdOpen(pid, 0)
			}
			return err == nil
		})
		defer unix.Close(fd)
		n.killMonitor()
		if err := <-failed; !errdefs.IsUnavailable(err) {
			t.Errorf("launch: %v", err)
		}
		if k, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); k != 1 {
			t.Errorf("the runtime lives on: %v", err)
		}
		n.ready()
		if got, err := n.client.List(n.ctx()); err != nil || len(got) != 0 {
			t.Errorf("list %v, %v", got, err)
		}
	})
	t.Run("after", func(t *testing.T) {
		gate := n.dir + "/gate"
		l := n.spec("cri-after", "linger", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo on; exit 5")
		l.Cgroups = []string{makeCgroup(t, l.ID)}
		failed := launch(l)
		eventually(t, "the pid file", func() bool {
			b, err := os.ReadFile(l.PidFile)
			return err == nil && len(b) > 0
		})
		enter(t, l.Cgroups[0], l.PidFile)
		n.killMonitor()
		if err := <-failed; !errdefs.IsUnavailable(err) {
			t.Errorf("launch: %v", err)
		}
		n.ready()
		got, err := n.client.List(n.ctx())
		if err != nil || len(got) != 1 || got[0].ID != "cri-after" || got[0].Pid == 0 {
			t.Fatalf("list %v, %v", got, err)
		}
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if e := n.exit(); e.ID != "cri-after" || e.Code != 5 && !e.Unknown {
			t.Errorf("exit %+v", e)
		}
		if got := text(readLog(t, n.logPath("cri-after")), "stdout"); got != "on\n" {
			t.Errorf("log %q", got)
		}
	})
}

// TestPidOfAnother has a launch cut off, and an innocent process under the pid
// that the launch left in its pid file.
func TestPidOfAnother(t *testing.T) {
	n := startNode(t)
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
		l := n.spec(id, "hang")
		l.Cgroups, l.KillAll = cgroups, true
		failed := make(chan error, 1)
		go func() { _, err := n.client.Launch(n.ctx(), l); failed <- err }()
		eventually(t, "the runtime", func() bool { _, err := os.Stat(l.PidFile + ".hangs"); return err == nil })
		if err := os.WriteFile(l.PidFile, []byte(strconv.Itoa(innocent.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
		n.killMonitor()
		<-failed
		n.ready()
		if got, err := n.client.List(n.ctx()); err != nil || len(got) != 0 {
			t.Errorf("%s: list %v, %v", id, got, err)
		}
		if err := n.client.Signal(n.ctx(), id, 9); !errdefs.IsNotFound(err) {
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
	dirs := cgroup.Dirs("/" + name)
	if len(dirs) == 0 {
		t.Skip("no cgroups are mounted")
	}
	dir := dirs[len(dirs)-1]
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("make cgroup: %v", err)
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
	n := startNode(t)
	gate := n.dir + "/gate"
	l := n.launch(n.spec("c", "sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; exit 5"))
	fd, err := unix.PidfdOpen(l.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n.stop()
	n.killMonitor()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
	eventually(t, "init to reap", func() bool { return unix.Kill(l.Pid, 0) != nil })
	n.connect()
	if e := n.exit(); e.ID != "c" || e.Code != 255 || !e.Unknown || e.Pid != l.Pid {
		t.Errorf("exit %+v", e)
	}
}

// TestBothDieUnderAWriter kills daemon and monitor together.
func TestBothDieUnderAWriter(t *testing.T) {
	n := startNode(t)
	gate := n.dir + "/gate"
	n.launch(n.spec("writer", self(t), asCounter, gate))
	for range 5 {
		n.waitLog("writer", "stdout")
		n.stop()
		n.killMonitor()
		n.connect()
	}
	lines := endCounter(t, gate)
	if e := n.exit(); e.Code != 7 && !e.Unknown {
		t.Errorf("exit %+v", e)
	}
	checkCounter(t, readLog(t, n.logPath("writer")), lines)
}
