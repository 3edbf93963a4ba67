// SPDX-License-Identifier: Apache-2.0

// Package monitornode gives tests a monitor process with a client, on a directory
// of its own, and what a container needs there. The test program is the monitor too,
// and the programs that tests launch.
package monitornode

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/await"
)

// Node is a monitor process with a client, and what a container needs.
type Node struct {
	T      testing.TB
	Dir    string
	Binary string // of the monitor
	// Replace is the binary that clients have a monitor of another build replaced by; "" has none replaced.
	Replace string
	Socket  string
	Client  *monitor.Client
	PID     int                      // of the monitor started last
	Stop    context.CancelFunc       // ends the client
	Exits   chan monitor.Exit        // as the clients report them; so many that none of them ever waits for the test
	Refuse  func(monitor.Exit) error // what recording an exit gives; nil: nothing is refused
	Taken   atomic.Int32             // how many successors of the monitor were reported
	dead    int                      // pid of the monitor killed last
	log     *slog.Logger
	said    said // by clients

	mu       sync.Mutex // guards launched
	launched []monitor.Launched
}

// Start runs a monitor and a client that starts a new one whenever the
// monitor is gone.
func Start(t testing.TB) *Node {
	t.Helper()
	return StartWith(t, "")
}

// BuildMonitor builds the real binary.
func BuildMonitor(t testing.TB) string {
	t.Helper()
	return BuildVersion(t, "test")
}

// BuildVersion builds the real binary with a version of that name.
func BuildVersion(t testing.TB, version string) string {
	t.Helper()
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs Go: it builds the monitor")
	}
	out := filepath.Join(t.TempDir(), "cri-monitor")
	cmd := exec.Command(tool, "build", "-trimpath", "-ldflags=-s -w -X main.version="+version, "-o", out, "github.com/cri-shim/cri-shim/cmd/cri-monitor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build cri-monitor: %v: %s", err, text)
	}
	return out
}

// StartWith uses the given binary as the monitor; "" is this program.
func StartWith(t testing.TB, binary string) *Node {
	t.Helper()
	return startOn(t, binary, func(*Node) {})
}

// StartOn has the first monitor find what prepare puts into the node's directory,
// its own being m in there.
func StartOn(t testing.TB, prepare func(n *Node)) *Node {
	t.Helper()
	return startOn(t, "", prepare)
}

func startOn(t testing.TB, binary string, prepare func(n *Node)) *Node {
	t.Helper()
	dir, err := os.MkdirTemp(Shm(), "cri-monitor-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("monitor's log:\n%s", b)
		}
		os.RemoveAll(dir)
	})
	n := &Node{T: t, Dir: dir, Binary: binary, Socket: filepath.Join(dir, "sock"), Exits: make(chan monitor.Exit, 1024)}
	n.log = slog.New(slog.NewTextHandler(&n.said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	prepare(n)
	t.Cleanup(n.end)
	n.Connect()
	return n
}

// Shm is a directory in memory.
func Shm() string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm"
	}
	return ""
}

// said shows what it takes to who wants to see more than the results of tests.
type said struct{ await.Output }

func (s *said) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Fprint(os.Stderr, "    client: ", string(b))
	}
	return s.Output.Write(b)
}

// ClientLog is what the node's clients have logged so far.
func (n *Node) ClientLog() string {
	return n.said.String()
}

// MonitorLog is what its monitors have.
func (n *Node) MonitorLog() string {
	b, err := os.ReadFile(filepath.Join(n.Dir, "log"))
	if err != nil {
		n.T.Fatal(err)
	}
	return string(b)
}

// Connect makes a client, which starts a monitor when none answers.
func (n *Node) Connect() {
	n.T.Helper()
	self, err := os.Executable()
	if err != nil {
		n.T.Fatal(err)
	}
	binary := n.Binary
	if binary == "" {
		binary = filepath.Join(n.Dir, "cri-monitor")
		if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec "+self+" "+AsMonitor+` "$@"`+"\n"), 0o755); err != nil {
			n.T.Fatal(err)
		}
	}
	spawn := monitor.SpawnOptions{Binary: binary, Dir: filepath.Join(n.Dir, "m"), Socket: n.Socket, LogFile: filepath.Join(n.Dir, "log")}
	n.Client = monitor.NewClient(monitor.ClientOptions{
		Socket: n.Socket, Binary: n.Replace, Log: n.log, Start: func(ctx context.Context) error { return monitor.Spawn(ctx, spawn) },
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Client.Run(ctx)
	}()
	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		_ = n.Client.RunExits(ctx, monitor.ExitHandler{Record: n.record, Reconcile: func(context.Context) error { n.Taken.Add(1); return nil }})
	}()
	n.Stop = func() { stop(); <-done; <-recorded }
	n.Ready()
}

// record hands an exit to the test, which decides whether it is refused.
func (n *Node) record(_ context.Context, e monitor.Exit) error {
	n.Exits <- e
	if n.Refuse != nil {
		return n.Refuse(e)
	}
	return nil
}

// Ready waits for a connection and notes the monitor's pid.
func (n *Node) Ready() {
	n.T.Helper()
	Eventually(n.T, "a connection", func() bool {
		pid := n.MonitorPID()
		if pid == 0 || pid == n.dead || n.Client.Ready() != nil {
			return false
		}
		n.PID = pid
		return true
	})
}

// MonitorPID is the pid of who listens, 0 when nobody does.
func (n *Node) MonitorPID() int {
	n.T.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		n.T.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: n.Socket}); err != nil {
		return 0
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		n.T.Fatal(err)
	}
	return int(cred.Pid)
}

// KillMonitor SIGKILLs the monitor and waits until it is gone.
func (n *Node) KillMonitor() {
	n.dead = n.PID
	fd, err := unix.PidfdOpen(n.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
}

// Eventually waits until ok.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	await.Until(t, 15*time.Second, what, ok)
}

// Spec is a launch of command as container id.
func (n *Node) Spec(id string, command ...string) monitor.Launch {
	n.T.Helper()
	self, err := os.Executable()
	if err != nil {
		n.T.Fatal(err)
	}
	pidFile := filepath.Join(n.Dir, id+".pid")
	return monitor.Launch{
		ID: id, Argv: append([]string{self, AsRuntime, pidFile, "-"}, command...), Env: os.Environ(), PidFile: pidFile,
		LogPath: n.LogPath(id), Stdio: true, UID: os.Geteuid(), GID: os.Getegid(),
	}
}

// Terminal is spec with a terminal.
func (n *Node) Terminal(id string, command ...string) monitor.Launch {
	l := n.Spec(id, command...)
	l.Argv[3] = "{console}"
	l.Terminal = true
	return l
}

// LogPath is where a container of spec logs to.
func (n *Node) LogPath(id string) string { return filepath.Join(n.Dir, id+".log") }

// Launch starts a container.
func (n *Node) Launch(l monitor.Launch) monitor.Launched {
	n.T.Helper()
	got, err := n.Client.Launch(n.Ctx(), l)
	if err != nil {
		n.T.Fatalf("launch %s: %v", l.ID, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.launched = append(n.launched, got)
	return got
}

// Ctx is for one call, or a few.
func (n *Node) Ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	n.T.Cleanup(cancel)
	return ctx
}

// patience is how long an exit may take: one whose log hangs takes 7 s by itself,
// and the machine may be loaded.
const patience = time.Minute

// Next waits for the next exit that the client reports.
func (n *Node) Next() monitor.Exit {
	n.T.Helper()
	select {
	case e := <-n.Exits:
		return e
	case <-time.After(patience):
		n.T.Fatalf("waited %s for an exit", patience)
	}
	return monitor.Exit{}
}

// Exit waits for the next exit, and until it is acknowledged.
func (n *Node) Exit() monitor.Exit {
	n.T.Helper()
	e := n.Next()
	Eventually(n.T, "ack", func() bool { return n.acknowledged(e.Seq) })
	return e
}

// acknowledged reports whether the exit log says so.
func (n *Node) acknowledged(seq uint64) bool {
	b, err := os.ReadFile(filepath.Join(n.Dir, "m", "exits.log"))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		var l struct {
			Ack uint64 `json:"ack"`
		}
		if json.Unmarshal(line, &l) == nil && l.Ack >= seq {
			return true
		}
	}
	return false
}

// WaitLog waits until the container's log holds want.
func (n *Node) WaitLog(id, want string) {
	n.T.Helper()
	Eventually(n.T, "log of "+id, func() bool {
		b, err := os.ReadFile(n.LogPath(id))
		return err == nil && strings.Contains(string(b), want)
	})
}

// WantExits waits for exits in any order. Where the kernel does not tell the exit
// of a reaped process, a lost one may stand for a code: a recovered container is
// no child.
func (n *Node) WantExits(want map[string]int) {
	n.T.Helper()
	known := ExitKnownAfterReap(n.T)
	for range len(want) {
		e := n.Exit()
		if code, ok := want[e.ID]; !ok || e.Code != code && (known || !e.Unknown) {
			n.T.Errorf("exit %+v", e)
		}
		delete(want, e.ID)
	}
}

// Stall stops the monitor from running until the returned function is called.
func (n *Node) Stall() (goOn func()) {
	n.T.Helper()
	if err := unix.Kill(n.PID, unix.SIGSTOP); err != nil {
		n.T.Fatal(err)
	}
	Eventually(n.T, "every thread to stop", func() bool {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.PID))
		return err == nil && !slices.ContainsFunc(stats, func(path string) bool {
			b, err := os.ReadFile(path)
			return err == nil && !strings.Contains(string(b), ") T ")
		})
	})
	return func() {
		if err := unix.Kill(n.PID, unix.SIGCONT); err != nil {
			n.T.Fatal(err)
		}
	}
}
