// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestClientsThatDieLeaveNoDescriptors ends clients while answers with
// descriptors are on their way to them.
func TestClientsThatDieLeaveNoDescriptors(t *testing.T) {
	n := monitornode.Start(t)
	for i := range 5 {
		l := n.Spec(fmt.Sprint("c", i), "sleep", "1000")
		l.Stdin = true
		n.Launch(l)
	}
	before := n.Descriptors()
	for range 20 {
		c := n.Raw(t)
		small := 1
		_ = unix.SetsockoptInt(c.FD, unix.SOL_SOCKET, unix.SO_RCVBUF, small)
		c.Send(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)
		for range 50 {
			if unix.Sendmsg(c.FD, []byte(`{"op":"list","req":2,"want_fds":true}`), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) != nil {
				break
			}
		}
		unix.Shutdown(c.FD, unix.SHUT_RDWR)
	}
	monitornode.Eventually(t, "the monitor to close what it could not send", func() bool { return n.Descriptors() <= before })
}

// TestExecWithoutTerminalEndsWhatRuns has a runtime that starts the process and
// sends no terminal.
func TestExecWithoutTerminalEndsWhatRuns(t *testing.T) {
	n := monitornode.Start(t)
	pidFile := n.Dir + "/exec.pid"
	argv := []string{monitornode.Self(t), monitornode.AsRuntime, pidFile, "-", "sleep", "1000"}
	if _, err := n.Client.Exec(n.Ctx(), monitor.Exec{Argv: argv, Env: os.Environ(), PidFile: pidFile, Terminal: true}); err == nil {
		t.Fatal("exec without a terminal succeeded")
	}
	awaitEnd(t, pidFile)
}

// TestExecGivenUpEndsWhatRuns gives an exec up while its runtime lingers beside
// the process it has started already.
func TestExecGivenUpEndsWhatRuns(t *testing.T) {
	n := monitornode.Start(t)
	pidFile := n.Dir + "/exec.pid"
	argv := []string{monitornode.Self(t), monitornode.AsRuntime, pidFile, "-", "linger", "sleep", "1000"}
	ctx, giveUp := context.WithCancel(n.Ctx())
	go func() {
		defer giveUp()
		monitornode.Eventually(t, "the process to start", func() bool { b, _ := os.ReadFile(pidFile); return len(b) > 0 })
	}()
	if _, err := n.Client.Exec(ctx, monitor.Exec{Argv: argv, Env: os.Environ(), PidFile: pidFile}); err == nil {
		t.Fatal("exec that was given up succeeded")
	}
	awaitEnd(t, pidFile)
}

// awaitEnd waits for the end of the process that the file names.
func awaitEnd(t *testing.T, pidFile string) {
	t.Helper()
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	monitornode.Eventually(t, "the process to end", func() bool { return unix.Kill(pid, 0) != nil })
}

// TestFailedLaunchLeavesTheNextAlone launches an id again while the directory of
// its failed launch, which takes long to remove, is on its way out.
func TestFailedLaunchLeavesTheNextAlone(t *testing.T) {
	n := monitornode.Start(t)
	dir := filepath.Join(n.Dir, "m", "c")
	for range 2 {
		fill(t, dir, 40000)
		failed := make(chan error, 1)
		go func() {
			_, err := n.Client.Launch(n.Ctx(), n.Spec("c", "fail", "3"))
			failed <- err
		}()
		monitornode.Eventually(t, "the launch to begin", func() bool { _, err := os.Stat(filepath.Join(dir, "state.json")); return err == nil || len(failed) > 0 })
		next := n.Spec("c", "sleep", "1000")
		next.PidFile += ".next"
		next.Argv[2] = next.PidFile
		monitornode.Eventually(t, "the id to be free", func() bool {
			_, err := n.Client.Launch(n.Ctx(), next)
			if err != nil && !errdefs.IsAlreadyExists(err) {
				t.Fatal("launch while another of the id is torn down:", err)
			}
			return err == nil
		})
		<-failed
		if _, err := os.Stat(filepath.Join(dir, "state.json")); err != nil {
			t.Error("record of the launch that succeeded:", err)
		}
		if err := n.Client.Signal(n.Ctx(), "c", 9); err != nil {
			t.Error(err)
		}
		n.Exit()
	}
}

// fill makes a directory of many files.
func fill(t *testing.T, dir string, files int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
