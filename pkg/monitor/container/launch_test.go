// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

func TestLaunchLogsAndReportsExit(t *testing.T) {
	tests := []struct {
		name, script string
		code, signal int
		stdout       string
		stderr       string
	}{
		{"ok", "echo out; echo err >&2", 0, 0, "out\n", "err\n"},
		{"code", "exit 42", 42, 0, "", ""},
		{"signal", "kill -9 $$", 137, 9, "", ""},
		{"no newline at the end", "printf a; printf 'b\\nc'", 0, 0, "ab\nc", ""},
		{"empty lines", "echo; echo; echo x", 0, 0, "\n\nx\n", ""},
	}
	n := monitornode.Start(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id := strings.ReplaceAll(tt.name, " ", "-")
			l := n.Launch(n.Spec(id, "sh", "-c", tt.script))
			e := n.Exit()
			if e.ID != id || e.Code != tt.code || e.Signal != tt.signal || e.Pid != l.Pid || e.Unknown || e.OOM || e.Time.IsZero() {
				t.Errorf("exit %+v of pid %d, want code %d signal %d", e, l.Pid, tt.code, tt.signal)
			}
			lines := monitornode.ReadLog(t, n.LogPath(id))
			if got := monitornode.Text(lines, "stdout"); got != tt.stdout {
				t.Errorf("stdout %q, want %q", got, tt.stdout)
			}
			if got := monitornode.Text(lines, "stderr"); got != tt.stderr {
				t.Errorf("stderr %q, want %q", got, tt.stderr)
			}
		})
	}
}

func TestLongLinesAreSplit(t *testing.T) {
	n := monitornode.Start(t)
	n.Launch(n.Spec("long", "sh", "-c", `head -c 40000 /dev/zero | tr '\0' a; echo; head -c 16384 /dev/zero | tr '\0' b; echo`))
	if e := n.Exit(); e.Code != 0 {
		t.Fatalf("exit %+v", e)
	}
	var got []int
	tags := ""
	for _, l := range monitornode.ReadLog(t, n.LogPath("long")) {
		got = append(got, len(l.Text))
		tags += l.Tag
	}
	if tags != "PPFF" || got[0] != 16384 || got[2] != 40000-2*16384 || got[3] != 16384 {
		t.Errorf("records %s %v", tags, got)
	}
}

func TestLaunchFailure(t *testing.T) {
	n := monitornode.Start(t)
	_, err := n.Client.Launch(n.Ctx(), n.Spec("fails", "fail", "3"))
	var failed *monitor.LaunchError
	if !errors.As(err, &failed) || failed.ExitCode != 3 || failed.Stderr != "no such image: 3" {
		t.Errorf("error %#v", err)
	}
	l := n.Spec("missing", "true")
	l.Argv[0] = "/nonexistent/runtime"
	if _, err = n.Client.Launch(n.Ctx(), l); !errors.As(err, &failed) || failed.ExitCode != 127 {
		t.Errorf("error %v", err)
	}
	l.Argv[0] = "relative"
	if _, err = n.Client.Launch(n.Ctx(), l); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v", err)
	}
	if got, err := n.Client.List(n.Ctx()); err != nil || len(got) != 0 {
		t.Errorf("list %v, %v", got, err)
	}
	for _, id := range []string{"fails", "missing"} {
		if _, err := os.Stat(n.Dir + "/m/" + id); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("directory of %s is left: %v", id, err)
		}
	}
}

// TestProgramReapsItsChild has a program that waits for what it starts: nobody
// else can see how that ended, and that it did is told all the same.
func TestProgramReapsItsChild(t *testing.T) {
	n := monitornode.Start(t)
	l := n.Spec("reaped", "true")
	l.Argv = []string{"/bin/sh", "-c", "sh -c 'exit 9' & echo $! >" + l.PidFile + "; wait"}
	launched := n.Launch(l)
	if e := n.Exit(); e.ID != "reaped" || e.Pid != launched.Pid || !e.Unknown || e.Code != 255 {
		t.Errorf("exit %+v of pid %d", e, launched.Pid)
	}
}

const leavesLate = `(sh -c 'sleep 1; exit 9' & echo $! >"$0"; exec sleep 0.3) & while [ ! -s "$0" ]; do sleep 0.01; done`

// TestProgramLeavesItsChildLate has a program of two processes, as crun's run is: the monitor waits for one, and the other,
// the parent of what was started, is gone only later. How that ended is the monitor's to see, on every kernel.
func TestProgramLeavesItsChildLate(t *testing.T) {
	n := monitornode.Start(t)
	l := n.Spec("late", "true")
	l.Argv = []string{"/bin/sh", "-c", leavesLate, l.PidFile}
	launched := n.Launch(l)
	if e := n.Exit(); e.ID != "late" || e.Pid != launched.Pid || e.Unknown || e.Code != 9 {
		t.Errorf("exit %+v of pid %d", e, launched.Pid)
	}
}

func TestListSignalForget(t *testing.T) {
	n := monitornode.Start(t)
	l := n.Launch(n.Spec("sleeper", "sleep", "1000"))
	got, err := n.Client.List(n.Ctx())
	if err != nil || len(got) != 1 || got[0].ID != "sleeper" || got[0].Launched != l || l.StartTime == 0 {
		t.Errorf("list %+v, %v; launched %+v", got, err, l)
	}
	if _, err := n.Client.Launch(n.Ctx(), n.Spec("sleeper", "true")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second launch: %v", err)
	}
	if err := n.Client.Forget(n.Ctx(), "sleeper"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("forget a running one: %v", err)
	}
	if err := n.Client.Signal(n.Ctx(), "sleeper", 15); err != nil {
		t.Error(err)
	}
	if e := n.Exit(); e.Signal != 15 || e.Code != 143 {
		t.Errorf("exit %+v", e)
	}
	if err := n.Client.Signal(n.Ctx(), "sleeper", 15); !errdefs.IsNotFound(err) {
		t.Errorf("signal after the end: %v", err)
	}
	for range 2 {
		if err := n.Client.Forget(n.Ctx(), "sleeper"); err != nil {
			t.Error(err)
		}
	}
}
