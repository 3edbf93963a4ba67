// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
)

func TestUpgradeKeepsEverything(t *testing.T) {
	n := startNode(t)
	stop := filepath.Join(n.dir, "stop")
	n.launch(n.spec("writer", self(t), asCounter, stop))
	in := n.spec("reader", "sh", "-c", "read x; read y; echo $x $y; exit 4")
	in.Stdin = true
	n.launch(in)
	n.launch(n.terminal("tty", "sh", "-c", "stty -echo; echo ready; read x; echo got $x; exit 5"))
	n.waitLog("tty", "ready")
	reader := n.attach("reader")
	tty := n.attach("tty")
	fmt.Fprintln(reader.Stdin, "one")
	gate := filepath.Join(n.dir, "gate")
	session, err := n.client.Exec(n.ctx(), monitor.Exec{Argv: []string{"/bin/sh", "-c", "until [ -e " + gate + " ]; do sleep 0.01; done; exit 6"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := n.client.Upgrade(n.ctx()); err != nil {
			t.Fatal(err)
		}
		if got, err := n.client.List(n.ctx()); err != nil || len(got) != 3 {
			t.Fatalf("list %v, %v", got, err)
		}
	}
	if pid := n.monitorPid(); pid != n.pid {
		t.Errorf("pid %d became %d", n.pid, pid)
	}
	fmt.Fprintln(reader.Stdin, "two")
	fmt.Fprintln(tty.Stdin, "three")
	if got := readAll(t, reader.Stdout); got != "one two\n" {
		t.Errorf("read %q", got)
	}
	if got := readAll(t, tty.Stdout); got != "got three\r\n" {
		t.Errorf("read %q from the terminal", got)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := session.Wait(n.ctx()); err != nil || e.Code != 6 {
		t.Errorf("exec ended %+v, %v", e, err)
	}
	lines := endCounter(t, stop)
	want := map[string]int{"writer": 7, "reader": 4, "tty": 5}
	for range want {
		if e := n.exit(); e.Code != want[e.ID] {
			t.Errorf("exit %+v, want code %d", e, want[e.ID])
		}
	}
	checkCounter(t, readLog(t, n.logPath("writer")), lines)
}

func TestFailedUpgradeGoesOn(t *testing.T) {
	n := startNodeWith(t, buildMonitor(t))
	n.launch(n.spec("c", "sleep", "1000"))
	if err := os.Rename(n.binary, n.binary+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.client.Upgrade(n.ctx()); err == nil || errdefs.IsUnavailable(err) {
			t.Errorf("upgrade without a binary: %v", err)
		}
	}
	if err := n.client.Signal(n.ctx(), "c", 9); err != nil {
		t.Error(err)
	}
	if e := n.exit(); e.Signal != 9 {
		t.Errorf("exit %+v", e)
	}
}

func (n *node) attach(id string) *monitor.Attachment {
	n.t.Helper()
	a, err := n.client.Attach(n.ctx(), id, monitor.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { a.Close() })
	return a
}
