// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/leak"
)

// The test binary is also the programs the tests need: argv[1] says which.
const (
	asMonitor = "cri-test-monitor" // --dir D --socket S [--ready-fd N]
	asRuntime = "cri-test-runtime" // PIDFILE CONSOLE|- COMMAND… : start COMMAND detached, write its pid, exit
	asWriter  = "cri-test-writer"  // TOTAL LINE PIECE : see beWriter
	asCounter = "cri-test-counter" // N | FILE : write N numbered lines, or until FILE exists; exit 7
)

func TestMain(m *testing.M) {
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // else every helper process takes a second to end with -race
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case asMonitor:
			err = beMonitor(os.Args[2:])
		case asRuntime:
			err = beRuntime(os.Args[2], os.Args[3], os.Args[4:])
		case asWriter:
			err = beWriter(os.Args[2:])
		case asCounter:
			err = beCounter(os.Args[2:])
		default:
			os.Exit(leak.Run(m))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(leak.Run(m))
}

func beMonitor(args []string) error {
	o := map[string]string{}
	for i := 0; i+1 < len(args); i += 2 {
		o[args[i]] = args[i+1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fd := -1
	if s, ok := o["--ready-fd"]; ok {
		fd, _ = strconv.Atoi(s)
		unix.CloseOnExec(fd)
	}
	say := func(text string) {
		if fd >= 0 {
			_, _ = unix.Write(fd, []byte(text))
			unix.Close(fd)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	err = monitor.Run(ctx, monitor.Options{
		Executable: self, Args: []string{asMonitor, "--dir", o["--dir"], "--socket", o["--socket"]},
		Dir: o["--dir"], Socket: o["--socket"], Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Listening: func() { say("ready") },
	})
	if errors.Is(err, monitor.ErrRunning) {
		say(monitor.ErrRunning.Error())
	}
	return err
}

// beRuntime stands in for "runc run --detach".
func beRuntime(pidFile, console string, argv []string) error {
	if argv[0] == "fail" {
		fmt.Fprintln(os.Stderr, "no such image: "+argv[1])
		code, err := strconv.Atoi(argv[1])
		if err != nil {
			return err
		}
		os.Exit(code)
	}
	if argv[0] == "hang" {
		if err := os.WriteFile(pidFile+".hangs", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			return err
		}
		time.Sleep(time.Hour)
	}
	if argv[0] == "linger" {
		defer time.Sleep(time.Hour) // after the pid file was written
		argv = argv[1:]
	}
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true}}
	if console != "-" {
		master, slave, err := openPTY()
		if err != nil {
			return err
		}
		attr.Files = []*os.File{slave, slave, slave}
		attr.Sys.Setctty = true
		if err := sendFile(console, master); err != nil {
			return err
		}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return err
	}
	return os.WriteFile(pidFile, []byte(strconv.Itoa(p.Pid)), 0o600)
}

func openPTY() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	return master, slave, err
}

func sendFile(socket string, f *os.File) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return err
	}
	return unix.Sendmsg(fd, []byte("/dev/ptmx"), unix.UnixRights(int(f.Fd())), nil, 0)
}

func beCounter(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		n = 1 << 30
	}
	i := 0
	for ; i < n; i++ {
		// Written in uneven pieces, so that reads end within lines.
		line := fmt.Sprintf("line %08d %s\n", i, strings.Repeat("x", i%97))
		cut := i % len(line)
		for _, part := range []string{line[:cut], line[cut:]} {
			if _, err := os.Stdout.WriteString(part); err != nil {
				return err
			}
		}
		if err != nil && i%100 == 99 {
			if _, missing := os.Stat(args[0]); missing == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err != nil {
		if err := os.WriteFile(args[0]+".count", []byte(strconv.Itoa(i+1)), 0o600); err != nil {
			return err
		}
	}
	os.Exit(7)
	return nil
}

// endCounter tells a counter to end and returns how many lines it wrote.
func endCounter(t testing.TB, gate string) int {
	t.Helper()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, "the counter to end", func() bool {
		b, _ := os.ReadFile(gate + ".count")
		n, _ = strconv.Atoi(string(b))
		return n > 0
	})
	return n
}

// node is a monitor process with a client, and what a container needs.
type node struct {
	t      testing.TB
	dir    string
	binary string
	socket string
	client *monitor.Client
	pid    int // of the monitor started last
	dead   int // of the monitor killed last
	log    *slog.Logger
	stop   context.CancelFunc
	exits  chan monitor.Exit        // as the clients report them; so many that none of them ever waits for the test
	refuse func(monitor.Exit) error // what recording an exit gives; nil: nothing is refused
	taken  atomic.Int32             // how many successors of the monitor were reported
}

// startNode runs a monitor and a client that starts a new one whenever the
// monitor is gone.
func startNode(t testing.TB) *node {
	t.Helper()
	return startNodeWith(t, "")
}

// buildMonitor builds the real binary.
func buildMonitor(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "cri-monitor")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/cri-shim/cri-shim/cmd/cri-monitor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build cri-monitor: %v: %s", err, text)
	}
	return out
}

// startNodeWith uses the given binary as the monitor; "" is this program.
func startNodeWith(t testing.TB, binary string) *node {
	t.Helper()
	dir, err := os.MkdirTemp(shm(), "cri-monitor-test-")
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
	n := &node{t: t, dir: dir, binary: binary, socket: filepath.Join(dir, "sock"), exits: make(chan monitor.Exit, 1024)}
	n.log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.connect()
	t.Cleanup(n.end)
	return n
}

// end kills what runs. The client goes before the monitor: it would start
// another one.
func (n *node) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if left, err := n.client.List(ctx); err == nil {
		for _, r := range left {
			_ = n.client.Signal(ctx, r.ID, 9)
		}
	}
	n.stop()
	if n.pid = n.monitorPid(); n.pid != 0 {
		n.killMonitor()
	}
}

func shm() string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm"
	}
	return ""
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Fprint(os.Stderr, "    client: ", string(b))
	}
	return len(b), nil
}

func (n *node) connect() {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	binary := n.binary
	if binary == "" {
		binary = filepath.Join(n.dir, "cri-monitor")
		if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec "+self+" "+asMonitor+` "$@"`+"\n"), 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	spawn := monitor.SpawnOptions{Binary: binary, Dir: filepath.Join(n.dir, "m"), Socket: n.socket, LogFile: filepath.Join(n.dir, "log")}
	n.client = monitor.NewClient(monitor.ClientOptions{
		Socket: n.socket, Log: n.log, Start: func(ctx context.Context) error { return monitor.Spawn(ctx, spawn) },
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.client.Run(ctx)
	}()
	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		_ = n.client.RunExits(ctx, monitor.ExitHandler{Record: n.record, Reconcile: func(context.Context) error { n.taken.Add(1); return nil }})
	}()
	n.stop = func() { stop(); <-done; <-recorded }
	n.t.Cleanup(n.stop)
	n.ready()
}

// record hands an exit to the test, which decides whether it is refused.
func (n *node) record(_ context.Context, e monitor.Exit) error {
	n.exits <- e
	if n.refuse != nil {
		return n.refuse(e)
	}
	return nil
}

// ready waits for a connection and notes the monitor's pid.
func (n *node) ready() {
	n.t.Helper()
	eventually(n.t, "a connection", func() bool {
		pid := n.monitorPid()
		if pid == 0 || pid == n.dead || n.client.Ready() != nil {
			return false
		}
		n.pid = pid
		return true
	})
}

// monitorPid is the pid of who listens, 0 when nobody does.
func (n *node) monitorPid() int {
	n.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: n.socket}); err != nil {
		return 0
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		n.t.Fatal(err)
	}
	return int(cred.Pid)
}

// killMonitor SIGKILLs the monitor and waits until it is gone.
func (n *node) killMonitor() {
	n.dead = n.pid
	fd, err := unix.PidfdOpen(n.pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited 15 s for %s", what)
}

// spec is a launch of command as container id.
func (n *node) spec(id string, command ...string) monitor.Launch {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	pidFile := filepath.Join(n.dir, id+".pid")
	return monitor.Launch{
		ID: id, Argv: append([]string{self, asRuntime, pidFile, "-"}, command...), Env: os.Environ(), PidFile: pidFile,
		LogPath: n.logPath(id), Stdio: true, UID: os.Geteuid(), GID: os.Getegid(),
	}
}

func (n *node) terminal(id string, command ...string) monitor.Launch {
	l := n.spec(id, command...)
	l.Argv[3] = "{console}"
	l.Terminal = true
	return l
}

func (n *node) logPath(id string) string { return filepath.Join(n.dir, id+".log") }

func (n *node) launch(l monitor.Launch) monitor.Launched {
	n.t.Helper()
	got, err := n.client.Launch(n.ctx(), l)
	if err != nil {
		n.t.Fatalf("launch %s: %v", l.ID, err)
	}
	return got
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	n.t.Cleanup(cancel)
	return ctx
}

// next waits for the next exit that the client reports.
func (n *node) next() monitor.Exit {
	n.t.Helper()
	select {
	case e := <-n.exits:
		return e
	case <-time.After(20 * time.Second):
		n.t.Fatal("waited 20 s for an exit")
	}
	return monitor.Exit{}
}

// exit waits for the next exit, and until it is acknowledged.
func (n *node) exit() monitor.Exit {
	n.t.Helper()
	e := n.next()
	eventually(n.t, "ack", func() bool { return monitor.Acknowledged(n.client, e.Seq) })
	return e
}

// waitLog waits until the container's log holds want.
func (n *node) waitLog(id, want string) {
	n.t.Helper()
	eventually(n.t, "log of "+id, func() bool {
		b, err := os.ReadFile(n.logPath(id))
		return err == nil && strings.Contains(string(b), want)
	})
}

// logLine is a parsed line of a CRI log.
type logLine struct{ stream, tag, text string }

func readLog(t testing.TB, path string) []logLine {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []logLine
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("log line %d malformed: %.80q", len(lines), line)
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			t.Fatalf("log line %d: %v", len(lines), err)
		}
		lines = append(lines, logLine{f[1], f[2], f[3]})
	}
	return lines
}

// text is the content of one stream of a log.
func text(lines []logLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if l.stream != stream {
			continue
		}
		b.WriteString(l.text)
		if l.tag == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
