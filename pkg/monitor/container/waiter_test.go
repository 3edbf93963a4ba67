// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// sandboxed is a launch of a container that is no process of this machine: the
// script runs in place of the program that waits for its end.
func sandboxed(n *monitornode.Node, id, script string) monitor.Launch {
	return monitor.Launch{
		ID: id, Argv: []string{"/bin/sh", "-c", "echo out of the sandbox"}, Env: os.Environ(),
		Wait: []string{"/bin/sh", "-c", script}, LogPath: n.LogPath(id), Stdio: true, UID: os.Geteuid(), GID: os.Getegid(),
	}
}

func TestWaitingProgramTells(t *testing.T) {
	for name, tt := range map[string]struct {
		script       string
		code, signal int
		unknown      bool
	}{
		"a code":                      {`echo '{"id":"c","exitStatus":3}'`, 3, 0, false},
		"a signal":                    {`echo '{"id":"c","exitStatus":137}'`, 137, 0, false},
		"no container to wait for":    {"exit 1", 137, 9, false},
		"nothing, it is killed":       {"kill -9 $$", 255, 0, true},
		"half an answer":              {`printf '{"exitS'; exit 1`, 137, 9, false},
		"an answer without an answer": {`echo '{}'`, 137, 9, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := monitornode.Start(t)
			n.Launch(sandboxed(n, "c", tt.script))
			if e := n.Exit(); e.Code != tt.code || e.Signal != tt.signal || e.Unknown != tt.unknown {
				t.Errorf("exit %+v", e)
			}
			if got := monitornode.Text(monitornode.ReadLog(t, n.LogPath("c")), "stdout"); got != "out of the sandbox\n" {
				t.Errorf("log %q", got)
			}
		})
	}
}

// TestWaitingProgramOutlivesTheMonitor: what it told is known on every kernel,
// also when it ended while no monitor lived.
func TestWaitingProgramOutlivesTheMonitor(t *testing.T) {
	for name, late := range map[string]bool{"ends after the takeover": true, "ends before it": false} {
		t.Run(name, func(t *testing.T) {
			n := monitornode.Start(t)
			gate := n.Dir + "/gate"
			l := n.Launch(sandboxed(n, "c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo '{\"exitStatus\":4}'"))
			open := func() {
				if err := os.WriteFile(gate, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if !late {
				_ = unix.Kill(n.PID, unix.SIGSTOP)
				fd, err := unix.PidfdOpen(l.Pid, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				open()
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
			}
			n.KillMonitor()
			n.Ready()
			if late {
				open()
			}
			if e := n.Exit(); e.Code != 4 || e.Unknown {
				t.Errorf("exit %+v", e)
			}
		})
	}
}

func TestSandboxedLaunchThatFails(t *testing.T) {
	n := monitornode.Start(t)
	l := sandboxed(n, "c", "sleep 1000")
	l.Argv[2] = "echo refused >&2; exit 1"
	if _, err := n.Client.Launch(n.Ctx(), l); err == nil || fmt.Sprint(err) == "" {
		t.Errorf("error %v", err)
	}
	l.PidFile = n.Dir + "/pid"
	if _, err := n.Client.Launch(n.Ctx(), l); err == nil {
		t.Error("a launch with a pid file and a program that waits")
	}
}
