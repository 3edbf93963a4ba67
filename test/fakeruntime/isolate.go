// SPDX-License-Identifier: Apache-2.0

package fakeruntime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/parent"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/leak"
)

// The parts that a test binary plays, besides that of the tests.
const (
	monitorDir = "CRI_TEST_MONITOR_DIR" // the monitor of the node in that directory
	stage      = "CRI_TEST_STAGE"       // "init": the first process of a PID namespace; "tests": what it has started
)

// Main is the TestMain of a package whose tests make nodes, and returns its exit
// code. As root the tests run in mount and PID namespaces of their own: what they
// mount, pin and start is gone with them, and never on the machine.
func Main(m *testing.M) int {
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	if dir, ok := os.LookupEnv(monitorDir); ok {
		return runMonitor(dir)
	}
	switch {
	case os.Getenv(stage) == "init":
		return playInit()
	case os.Getenv(stage) == "" && os.Geteuid() == 0:
		return again("init", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL})
	}
	return leak.Run(m)
}

// Isolated tells whether the tests have namespaces of their own, in which they may mount.
func Isolated() bool { return os.Getenv(stage) == "tests" }

// again runs this program in its next part and returns its exit code.
func again(part string, attr *syscall.SysProcAttr) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stage+"="+part)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdin, os.Stdout, os.Stderr, attr
	if err := cmd.Start(); err != nil {
		return blame("start the tests", err)
	}
	if os.Getpid() == 1 {
		return reapAll(cmd.Process.Pid)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		return blame("wait for the tests", err)
	}
	return 0
}

// playInit is the first process of the PID namespace: it furnishes the mount
// namespace and reaps what the tests leave. With it everything ends.
func playInit() int {
	if err := furnish(); err != nil {
		return blame("furnish the namespaces of the tests", err)
	}
	return again("tests", &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL})
}

// furnish hides what the tests must not touch: the machine's pinned namespaces, and
// all cgroups but those of the one hierarchy that takes commands' cgroups.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := os.MkdirAll(state.NetNSDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", state.NetNSDir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("hide %s: %w", state.NetNSDir, err)
	}
	return hideCgroups()
}

// hideCgroups leaves cgroup v2 as it is, and of cgroup v1 the freezer.
func hideCgroups() error {
	const roots, kept = "/sys/fs/cgroup", "/sys/fs/cgroup/freezer"
	hierarchy, err := os.Open(kept)
	if err != nil {
		return nil //nolint:nilerr // cgroup v2, or no cgroups at all
	}
	defer hierarchy.Close()
	if err := unix.Mount("tmpfs", roots, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("hide cgroups: %w", err)
	}
	if err := os.Mkdir(kept, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", hierarchy.Fd()), kept, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keep %s: %w", kept, err)
	}
	return nil
}

// reapAll returns the exit code of the child pid, and reaps all others meanwhile.
func reapAll(pid int) int {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return blame("reap", err)
		case got == pid && status.Exited():
			return status.ExitStatus()
		case got == pid:
			return blame("tests", fmt.Errorf("killed by %s", status.Signal()))
		}
	}
}

func blame(what string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	return 1
}

// runMonitor is the real monitor of a node.
func runMonitor(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := parent.Run(ctx, parent.Options{
		Dir: filepath.Join(dir, "state", "monitor"), Socket: filepath.Join(dir, "state", "monitor.sock"),
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return blame("monitor", err)
	}
	return 0
}
