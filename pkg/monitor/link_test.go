// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
)

// stall stops the monitor from running until the returned function is called.
func (n *node) stall() (goOn func()) {
	n.t.Helper()
	if err := unix.Kill(n.pid, unix.SIGSTOP); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "every thread to stop", func() bool {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.pid))
		return err == nil && !slices.ContainsFunc(stats, func(path string) bool {
			b, err := os.ReadFile(path)
			return err == nil && !strings.Contains(string(b), ") T ")
		})
	})
	return func() {
		if err := unix.Kill(n.pid, unix.SIGCONT); err != nil {
			n.t.Fatal(err)
		}
	}
}

// TestLateAttachIsDetached has attaches given up before the monitor answers:
// they must not count as writers of the container's input.
func TestLateAttachIsDetached(t *testing.T) {
	n := startNode(t)
	l := n.spec("c", "sh", "-c", "cat; exit 6")
	l.Stdin, l.StdinOnce = true, true
	n.launch(l)
	goOn := n.stall()
	for range 3 {
		ctx, cancel := context.WithTimeout(n.ctx(), 20*time.Millisecond)
		if _, err := n.client.Attach(ctx, "c", monitor.AttachOptions{Stdin: true, Stdout: true}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("attach to a stalled monitor: %v", err)
		}
		cancel()
	}
	goOn()
	a, err := n.client.Attach(n.ctx(), "c", monitor.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Stdin.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	a.Stdin.Close()
	defer context.AfterFunc(n.ctx(), func() { a.Stdout.Close() })() // else it reads for ever
	if got := readAll(t, a.Stdout); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	if e := n.exit(); e.Code != 6 {
		t.Errorf("exit %+v", e)
	}
}

// TestEndedSessionsAreForgotten ends attachments and commands in each order of
// their end and their close.
func TestEndedSessionsAreForgotten(t *testing.T) {
	n := startNode(t)
	for i := range 10 {
		id := fmt.Sprint("c", i)
		l := n.spec(id, "cat")
		l.Stdin, l.StdinOnce = true, true
		n.launch(l)
		a, err := n.client.Attach(n.ctx(), id, monitor.AttachOptions{Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		a.Stdin.Close()
		if i%2 == 0 {
			a.Close()
		}
		p, err := n.client.Exec(n.ctx(), monitor.Exec{Argv: []string{"/bin/true"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(n.ctx()); err != nil {
			t.Error(err)
		}
		n.exit()
		<-a.Ended()
		a.Close()
	}
	if k := monitor.Sessions(n.client); k != 0 {
		t.Errorf("%d sessions are remembered", k)
	}
}

// TestSenderWithoutDeadline fills the way to a stalled monitor with requests
// that may take forever: those with a deadline keep it, and all is well when the
// monitor goes on.
func TestSenderWithoutDeadline(t *testing.T) {
	n := startNode(t)
	n.launch(n.spec("c", "sleep", "1000"))
	goOn := n.stall()
	const patient = 8
	served := make(chan error, patient)
	for range patient {
		go func() {
			var err error
			for range 1000 {
				err = errors.Join(err, n.client.Forget(context.Background(), strings.Repeat("x", 100)))
			}
			served <- err
		}()
	}
	for range 40 { // each fits or not: in the end none does
		ctx, cancel := context.WithTimeout(n.ctx(), 20*time.Millisecond)
		long := monitor.Launch{ID: "none", Env: []string{strings.Repeat("x", monitor.MaxPacket/2)}}
		_, err := n.client.Launch(ctx, long)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("request to a stalled monitor: %v", err)
		}
	}
	unbounded := make(chan error, 1)
	giveUp, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := n.client.Launch(giveUp, monitor.Launch{ID: "none", Env: []string{strings.Repeat("x", monitor.MaxPacket/2)}})
		unbounded <- err
	}()
	ctx, done := context.WithTimeout(n.ctx(), 100*time.Millisecond)
	defer done()
	if err := n.client.Signal(ctx, "c", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("signal behind a sender without deadline: %v", err)
	}
	cancel()
	if err := <-unbounded; !errors.Is(err, context.Canceled) {
		t.Errorf("request given up: %v", err)
	}
	goOn()
	for range patient {
		if err := <-served; err != nil && !errdefs.IsUnavailable(err) {
			t.Error(err)
		}
	}
	if err := n.client.Signal(n.ctx(), "c", 0); err != nil {
		t.Error(err)
	}
}
