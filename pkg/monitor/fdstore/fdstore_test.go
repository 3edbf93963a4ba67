// SPDX-License-Identifier: Apache-2.0

package fdstore_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// serviceManager keeps descriptors as systemd does for a unit.
type serviceManager struct {
	t  *testing.T
	fd int

	mu   sync.Mutex // guards kept
	kept map[string]int
}

// startServiceManager listens where sd_notify(3) has it.
func startServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	s := &serviceManager{t: t, fd: fd, kept: map[string]int{}}
	done := make(chan struct{})
	go func() { defer close(done); s.serve() }()
	t.Cleanup(func() {
		_ = unix.Sendto(fd, nil, 0, &unix.SockaddrUnix{Name: path}) // an empty message ends it
		<-done
		unix.Close(fd)
		for _, fd := range s.kept {
			unix.Close(fd)
		}
	})
	return s
}

func (s *serviceManager) serve() {
	text, oob := make([]byte, 4096), make([]byte, 1024)
	for {
		n, oobn, _, _, err := unix.Recvmsg(s.fd, text, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		says := map[string]string{}
		for line := range strings.Lines(string(text[:n])) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			says[k] = v
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
			fds, _ = unix.ParseUnixRights(&messages[0])
		}
		s.take(says, fds)
	}
}

func (s *serviceManager) take(says map[string]string, fds []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := says["FDNAME"]
	old, have := s.kept[name]
	switch {
	case says["FDSTORE"] == "1" && says["FDPOLL"] == "0" && len(fds) == 1 && !have:
		s.kept[name] = fds[0]
		return
	case says["FDSTOREREMOVE"] == "1" && have:
		unix.Close(old)
		delete(s.kept, name)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func (s *serviceManager) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.kept))
}

// run starts a monitor on the node as a unit's next process.
func (s *serviceManager) run(n *monitornode.Node) {
	s.t.Helper()
	names := s.names()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "-", filepath.Join(n.Dir, "cri-monitor"), "--dir", filepath.Join(n.Dir, "m"), "--socket", n.Socket)
	cmd.Env = append(os.Environ(), fmt.Sprint("LISTEN_FDS=", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	log, err := os.OpenFile(filepath.Join(n.Dir, "log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		fd, err := unix.FcntlInt(uintptr(s.kept[name]), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			s.t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), name)
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // ends with the node
}

// TestEndWhileNobodyLives: monitor and client are killed, a container ends after that, and the next pair knows its last
// words and its code, because the service manager had its pipes and its pidfd.
func TestEndWhileNobodyLives(t *testing.T) {
	known := monitornode.ExitKnownAfterReap(t)
	s := startServiceManager(t)
	n := monitornode.Start(t)
	n.Stop()
	n.KillMonitor() // one that a client started is no unit
	s.run(n)
	monitornode.Eventually(t, "the unit's monitor", func() bool { return n.MonitorPID() != 0 })
	n.Connect()
	gate := filepath.Join(n.Dir, "gate")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const waits = "until [ -e %s ]; do sleep 0.01; done; echo last words; exit 42"
	ends := n.Launch(n.Spec("ends", "sh", "-c", fmt.Sprintf(waits, gate)))
	n.Launch(n.Spec("stays", self, monitornode.AsCounter, gate+"2"))
	n.Launch(n.Terminal("tty", "sh", "-c", fmt.Sprintf(waits, gate+"2")))
	short := n.Launch(n.Spec("short", "true"))
	if e := n.Exit(); e.Pid != short.Pid {
		t.Fatalf("exit %+v", e)
	}
	want := []string{
		"ends.pidfd", "ends.stderr", "ends.stdout", "stays.pidfd", "stays.stderr", "stays.stdout", "tty.pidfd", "tty.tty",
	}
	monitornode.Eventually(t, "three containers in the store", func() bool { return slices.Equal(s.names(), want) })

	fd, err := unix.PidfdOpen(ends.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n.Stop() // the client lets go of what it kept, and starts no monitor
	n.KillMonitor()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); err != nil {
		t.Fatal(err)
	}

	s.run(n)
	monitornode.Eventually(t, "the next monitor", func() bool { return n.MonitorPID() != 0 })
	n.Connect()
	if e := n.Exit(); e.ID != "ends" || known && (e.Code != 42 || e.Unknown) || !known && !e.Unknown {
		t.Errorf("exit %+v", e)
	}
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("ends")), "stdout"); got != "last words\n" {
		t.Errorf("log %q", got)
	}
	lines := monitornode.EndCounter(t, gate+"2")
	for range 2 {
		if e := n.Exit(); e.Code != map[string]int{"stays": 7, "tty": 42}[e.ID] && (known || !e.Unknown) {
			t.Errorf("exit %+v", e)
		}
	}
	monitornode.CheckCounter(t, monitornode.ReadLog(t, n.LogPath("stays")), lines)
	if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("tty")), "stdout"); !strings.Contains(got, "last words") {
		t.Errorf("terminal's log %q", got)
	}
	monitornode.Eventually(t, "an empty store", func() bool { return len(s.names()) == 0 })
}
