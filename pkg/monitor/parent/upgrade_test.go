// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

func TestUpgradeKeepsEverything(t *testing.T) {
	n := monitornode.Start(t)
	stop := filepath.Join(n.Dir, "stop")
	n.Launch(n.Spec("writer", monitornode.Self(t), monitornode.AsCounter, stop))
	in := n.Spec("reader", "sh", "-c", "read x; read y; echo $x $y; exit 4")
	in.Stdin = true
	n.Launch(in)
	n.Launch(n.Terminal("tty", "sh", "-c", "stty -echo; echo ready; read x; echo got $x; exit 5"))
	n.WaitLog("tty", "ready")
	reader := n.Attach("reader")
	tty := n.Attach("tty")
	fmt.Fprintln(reader.Stdin, "one")
	gate := filepath.Join(n.Dir, "gate")
	session, err := n.Client.Exec(n.Ctx(), monitor.Exec{Argv: []string{"/bin/sh", "-c", "until [ -e " + gate + " ]; do sleep 0.01; done; exit 6"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := n.Client.Upgrade(n.Ctx()); err != nil {
			t.Fatal(err)
		}
		if got, err := n.Client.List(n.Ctx()); err != nil || len(got) != 3 {
			t.Fatalf("list %v, %v", got, err)
		}
	}
	if pid := n.MonitorPID(); pid != n.PID {
		t.Errorf("pid %d became %d", n.PID, pid)
	}
	fmt.Fprintln(reader.Stdin, "two")
	fmt.Fprintln(tty.Stdin, "three")
	if got := monitornode.ReadAll(t, reader.Stdout); got != "one two\n" {
		t.Errorf("read %q", got)
	}
	if got := monitornode.ReadAll(t, tty.Stdout); got != "got three\r\n" {
		t.Errorf("read %q from the terminal", got)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := session.Wait(n.Ctx()); err != nil || e.Code != 6 {
		t.Errorf("exec ended %+v, %v", e, err)
	}
	lines := monitornode.EndCounter(t, stop)
	want := map[string]int{"writer": 7, "reader": 4, "tty": 5}
	for range want {
		if e := n.Exit(); e.Code != want[e.ID] {
			t.Errorf("exit %+v, want code %d", e, want[e.ID])
		}
	}
	monitornode.CheckCounter(t, monitornode.ReadLog(t, n.LogPath("writer")), lines)
}

func TestFailedUpgradeGoesOn(t *testing.T) {
	n := monitornode.StartWith(t, monitornode.BuildMonitor(t))
	n.Launch(n.Spec("c", "sleep", "1000"))
	if err := os.Rename(n.Binary, n.Binary+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Client.Upgrade(n.Ctx()); err == nil || errdefs.IsUnavailable(err) {
			t.Errorf("upgrade without a binary: %v", err)
		}
	}
	if err := n.Client.Signal(n.Ctx(), "c", 9); err != nil {
		t.Error(err)
	}
	if e := n.Exit(); e.Signal != 9 {
		t.Errorf("exit %+v", e)
	}
}
