// SPDX-License-Identifier: Apache-2.0

package monitornode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/parent"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/leak"
)

// The test binary is also the programs the tests need: argv[1] says which.
const (
	AsMonitor = "cri-test-monitor" // --dir D --socket S [--ready-fd N]
	AsRuntime = "cri-test-runtime" // PIDFILE CONSOLE|- COMMAND… : start COMMAND detached, write its pid, exit
	AsWriter  = "cri-test-writer"  // TOTAL LINE PIECE : see beWriter
	AsCounter = "cri-test-counter" // N | FILE : write N numbered lines, or until FILE exists; exit 7
)

// Main is TestMain of a package that uses a Node.
func Main(m *testing.M) {
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // else every helper process takes a second to end with -race
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case AsMonitor:
			err = sys.OffFirstThread(func() error { return beMonitor(os.Args[2:]) })
		case AsRuntime:
			err = beRuntime(os.Args[2], os.Args[3], os.Args[4:])
		case AsWriter:
			err = beWriter(os.Args[2:])
		case AsCounter:
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
	if slices.Contains(args, "--check") {
		_, err := fmt.Println("{}")
		return err
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
	err = parent.Run(ctx, parent.Options{
		Executable: self, Args: []string{AsMonitor, "--dir", o["--dir"], "--socket", o["--socket"]},
		Dir: o["--dir"], Socket: o["--socket"], Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Check:     []string{AsMonitor, "--check"},
		Listening: func() { say("ready") },
	})
	if errors.Is(err, wire.ErrRunning) {
		say(wire.ErrRunning.Error())
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

// beWriter writes total bytes of lines of the given length, piece by piece.
func beWriter(args []string) error {
	var v [3]int
	for i := range v {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			return err
		}
		v[i] = n
	}
	total, line, piece := v[0], v[1], v[2]
	buf := bytes.Repeat(append(bytes.Repeat([]byte("x"), line-1), '\n'), piece/line+2)
	for done := 0; done < total; done += piece {
		at := done % line
		if _, err := os.Stdout.Write(buf[at : at+piece]); err != nil {
			return err
		}
	}
	return nil
}
