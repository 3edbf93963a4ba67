// SPDX-License-Identifier: Apache-2.0

package monitor_test

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
)

// TestClientsThatDieLeaveNoDescriptors ends clients while answers with
// descriptors are on their way to them.
func TestClientsThatDieLeaveNoDescriptors(t *testing.T) {
	n := startNode(t)
	for i := range 5 {
		l := n.spec(fmt.Sprint("c", i), "sleep", "1000")
		l.Stdin = true
		n.launch(l)
	}
	before := n.descriptors()
	for range 20 {
		c := n.raw(t)
		small := 1
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, small)
		c.send(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)
		for range 50 {
			if unix.Sendmsg(c.fd, []byte(`{"op":"list","req":2,"want_fds":true}`), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) != nil {
				break
			}
		}
		unix.Shutdown(c.fd, unix.SHUT_RDWR)
	}
	eventually(t, "the monitor to close what it could not send", func() bool { return n.descriptors() <= before })
}

// TestExecWithoutTerminalEndsWhatRuns has a runtime that starts the process and
// sends no terminal.
func TestExecWithoutTerminalEndsWhatRuns(t *testing.T) {
	n := startNode(t)
	pidFile := n.dir + "/exec.pid"
	argv := []string{self(t), asRuntime, pidFile, "-", "sleep", "1000"}
	if _, err := n.client.Exec(n.ctx(), monitor.Exec{Argv: argv, Env: os.Environ(), PidFile: pidFile, Terminal: true}); err == nil {
		t.Fatal("exec without a terminal succeeded")
	}
	awaitEnd(t, pidFile)
}

// TestExecGivenUpEndsWhatRuns gives an exec up while its runtime lingers beside
// the process it has started already.
func TestExecGivenUpEndsWhatRuns(t *testing.T) {
	n := startNode(t)
	pidFile := n.dir + "/exec.pid"
	argv := []string{self(t), asRuntime, pidFile, "-", "linger", "sleep", "1000"}
	ctx, giveUp := context.WithCancel(n.ctx())
	go func() {
		defer giveUp()
		eventually(t, "the process to start", func() bool { b, _ := os.ReadFile(pidFile); return len(b) > 0 })
	}()
	if _, err := n.client.Exec(ctx, monitor.Exec{Argv: argv, Env: os.Environ(), PidFile: pidFile}); err == nil {
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
	eventually(t, "the process to end", func() bool { return unix.Kill(pid, 0) != nil })
}

// TestFailedLaunchLeavesTheNextAlone launches an id again while the directory of
// its failed launch, which takes long to remove, is on its way out.
func TestFailedLaunchLeavesTheNextAlone(t *testing.T) {
	n := startNode(t)
	dir := filepath.Join(n.dir, "m", "c")
	for range 2 {
		fill(t, dir, 40000)
		failed := make(chan error, 1)
		go func() {
			_, err := n.client.Launch(n.ctx(), n.spec("c", "fail", "3"))
			failed <- err
		}()
		eventually(t, "the launch to begin", func() bool { _, err := os.Stat(filepath.Join(dir, "state.json")); return err == nil || len(failed) > 0 })
		next := n.spec("c", "sleep", "1000")
		next.PidFile += ".next"
		next.Argv[2] = next.PidFile
		eventually(t, "the id to be free", func() bool {
			_, err := n.client.Launch(n.ctx(), next)
			if err != nil && !errdefs.IsAlreadyExists(err) {
				t.Fatal("launch while another of the id is torn down:", err)
			}
			return err == nil
		})
		<-failed
		if _, err := os.Stat(filepath.Join(dir, "state.json")); err != nil {
			t.Error("record of the launch that succeeded:", err)
		}
		if err := n.client.Signal(n.ctx(), "c", 9); err != nil {
			t.Error(err)
		}
		n.exit()
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
