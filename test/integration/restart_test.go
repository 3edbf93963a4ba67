// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/monitornode"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// bounce ends the daemon, does something while it is away, and starts it.
func bounce(t *testing.T, d *nodetest.Node, orderly bool, meanwhile func()) {
	t.Helper()
	end := d.Kill
	if orderly {
		end = d.Stop
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	if err := d.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, d.Log())
	}
}

// gapless checks that a log has the numbered lines, all, once and in order.
func gapless(t *testing.T, text string, least int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < least {
		t.Errorf("%d lines, want at least %d", len(lines), least)
	}
	for i, line := range lines {
		if line != fmt.Sprintf("line %d", i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
}

// lastLine is the number of the newest line in a log.
func lastLine(t *testing.T, d *nodetest.Node, name string) int {
	t.Helper()
	lines := strings.Fields(strings.TrimSpace(d.LogOf(t, name)))
	if len(lines) == 0 {
		return 0
	}
	n, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func awaitLines(t *testing.T, d *nodetest.Node, name string, more int) {
	t.Helper()
	d.AwaitLog(t, name, fmt.Sprintf(" line %d\n", lastLine(t, d, name)+more))
}

// Pods do not notice that the daemon goes and comes back; what ended meanwhile
// has its exit code.
func TestDaemonRestart(t *testing.T) {
	for name, orderly := range map[string]bool{"stopped": true, "killed": false} {
		t.Run(name, func(t *testing.T) {
			d := node(t)
			config := d.PodConfig("lives")
			pod := d.Pod(t, config)
			lines := d.Run(t, pod, nodetest.ContainerConfig("lines", "lines", "0", "5"), config)
			d.AwaitLog(t, "lines", "line 3")
			created := d.Create(t, pod, nodetest.ContainerConfig("created", "exit", "4"), config)
			exited := d.AwaitExit(t, d.Run(t, pod, nodetest.ContainerConfig("exited", "exit", "3"), config))
			ends := d.Run(t, pod, nodetest.ContainerConfig("ends", "trap"), config)
			d.AwaitLog(t, "ends", "trapping")
			before := d.Status(t, lines)
			pid := info(t, d, ends).PID
			bounce(t, d, orderly, func() {
				if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
					t.Error(err)
				}
				d.AwaitLog(t, "ends", "got SIGUSR1")
				awaitLines(t, d, "lines", 20) // logs go on without a daemon
			})
			s, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
			if err != nil || s.Status.State != cri.PodSandboxState_SANDBOX_READY || s.Status.Network.GetIp() == "" {
				t.Errorf("pod %v, %v", s, err)
			}
			after := d.Status(t, lines)
			if after.State != before.State || after.StartedAt != before.StartedAt || after.CreatedAt != before.CreatedAt || after.ImageId != before.ImageId {
				t.Errorf("status before %v, after %v", before, after)
			}
			if st := d.Status(t, exited.Id); st.ExitCode != 3 || st.FinishedAt != exited.FinishedAt {
				t.Errorf("what had ended before: %v", st)
			}
			if st := d.AwaitExit(t, ends); st.ExitCode != 40 || st.Reason != "Error" {
				t.Errorf("what ended meanwhile: %v", st)
			}
			contains(t, "exec", exec(t, d, lines, "echo", "still", "here"), "still here")
			if _, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: created}); err != nil {
				t.Error(err)
			}
			if st := d.AwaitExit(t, created); st.ExitCode != 4 {
				t.Errorf("what was created before: %v", st)
			}
			awaitLines(t, d, "lines", 5)
			if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: lines}); err != nil {
				t.Error(err)
			}
			gapless(t, d.LogOf(t, "lines"), 25)
			removePod(t, d, pod)
			d.NothingLeft(t)
		})
	}
}

// The monitor is killed: containers live on, the daemon starts another, and
// neither a log line nor an exit code is lost.
func TestMonitorKilled(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "orphans")
	lines := d.Run(t, pod, inHostNet("lines", "lines", "0", "2"), p)
	trap := d.Run(t, pod, inHostNet("trap", "trap"), p)
	term := inHostNet("term", "cat")
	term.Tty, term.Stdin = true, true
	tty := d.Run(t, pod, term, p)
	d.AwaitLog(t, "lines", "line 50")
	d.AwaitLog(t, "trap", "trapping")
	for range 2 {
		pid := info(t, d, lines).PID
		old := monitorPID(t, d)
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		nodetest.Eventually(t, patience, "another monitor runs", func() bool {
			now := d.MonitorPID()
			return now != 0 && now != old && condition(t, d, cri.RuntimeReady).Status
		})
		awaitLines(t, d, "lines", 50)
		if now := info(t, d, lines).PID; now != pid {
			t.Errorf("the container's process was %d, is %d", pid, now)
		}
		contains(t, "exec", exec(t, d, lines, "echo", "fine"), "fine")
	}
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: trap, Timeout: 20}); err != nil {
		t.Error(err)
	}
	// Where the kernel does not tell, init's zombie may still be there to be read.
	if st := d.Status(t, trap); st.ExitCode != 40 && (monitornode.ExitKnownAfterReap(t) || st.ExitCode != 255) {
		t.Errorf("exit code of an adopted container: %v", st)
	}
	contains(t, "log", d.LogOf(t, "trap"), "got SIGTERM")
	if st := d.Status(t, tty); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container with a terminal: %v", st)
	}
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: lines}); err != nil {
		t.Error(err)
	}
	gapless(t, d.LogOf(t, "lines"), 150)
	fresh := d.AwaitExit(t, d.Run(t, pod, inHostNet("fresh", "exit", "5"), p))
	if fresh.ExitCode != 5 {
		t.Errorf("a new container: %v", fresh)
	}
	removePod(t, d, pod)
	d.NothingLeft(t)
}

func monitorPID(t *testing.T, d *nodetest.Node) int {
	t.Helper()
	pid := d.MonitorPID()
	if pid == 0 {
		t.Fatal("no monitor")
	}
	return pid
}

// Both at once, and a container that ends while nobody is there.
func TestDaemonAndMonitorKilled(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "both")
	lines := d.Run(t, pod, inHostNet("lines", "lines", "0", "5"), p)
	d.AwaitLog(t, "lines", "line 5")
	bounce(t, d, false, func() {
		if err := syscall.Kill(monitorPID(t, d), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // nobody reads the pipes for a while
	})
	awaitLines(t, d, "lines", 20)
	contains(t, "exec", exec(t, d, lines, "echo", "fine"), "fine")
	if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: lines}); err != nil {
		t.Error(err)
	}
	gapless(t, d.LogOf(t, "lines"), 20)
	removePod(t, d, pod)
	d.NothingLeft(t)
}
