// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSignalsEndNothing: what operators, terminals and loggers send ends neither
// daemon nor monitor; a container gets none of it, and its own default actions.
func TestSignalsEndNothing(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "signals")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	daemon, monitor := d.PID(), monitorPID(t, d)
	for _, c := range []struct {
		pid    int
		send   []syscall.Signal
		logged string
	}{
		{daemon, []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE}, "signal ignored: the configuration"},
		{monitor, []syscall.Signal{syscall.SIGHUP}, "monitor executes the new binary"},
		{monitor, []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGPIPE}, "signal ignored, SIGTERM"},
	} {
		for _, s := range c.send {
			if err := syscall.Kill(c.pid, s); err != nil {
				t.Fatalf("send %v: %v", s, err)
			}
			contains(t, "exec", exec(t, d, id, "echo", "fine"), "fine")
		}
		nodetest.Eventually(t, patience, "the log says so", func() bool { return strings.Contains(d.Log(), c.logged) })
	}
	if d.PID() != daemon || monitorPID(t, d) != monitor {
		t.Error("daemon or monitor is another process now")
	}
	if status := exec(t, d, id, "read", "/proc/1/status"); !strings.Contains(status, "SigIgn:\t0000000000000000") {
		t.Errorf("the container was started with signals ignored: %s", status)
	}
}

// TestStartAfterKill: a daemon that starts while the one before it is ending
// waits for that, and says so.
func TestStartAfterKill(t *testing.T) {
	t.Parallel()
	d := nodetest.New(t)
	mustMkdir(t, filepath.Join(d.Dir, "root"))
	held, err := sys.LockFile(filepath.Join(d.Dir, "root", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan time.Time, 1)
	go func() {
		defer held.Close()
		defer func() { released <- time.Now() }()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if strings.Contains(d.Log(), "waiting for its end") {
				return
			}
		}
	}()
	d.StartFor(t)
	if at := <-released; time.Since(at) > patience {
		t.Errorf("it serves %s after the lock was free", time.Since(at))
	}
	contains(t, "log", d.Log(), "waiting for its end", "held by process")
}

// TestMetricsPortTaken: a daemon that cannot have what its configuration names
// ends, with the address in its last words, and is none the worse for it.
func TestMetricsPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	d := node(t)
	pod, p := quickPod(t, d, "lives")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, d.Config, string(before)+"\n[metrics]\naddress = \""+taken.Addr().String()+"\"\n")
	out, err := nodetest.Shim(t, "--config", d.Config)
	if err == nil {
		t.Errorf("the daemon runs without its metrics: %s", out)
	}
	contains(t, "error", out, "serve metrics", taken.Addr().String())
	mustWrite(t, d.Config, string(before))
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := d.Status(t, id); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status %v", s)
	}
}
