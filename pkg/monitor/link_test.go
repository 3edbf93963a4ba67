// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestLateAttachIsDetached has attaches given up before the monitor answers:
// they must not count as writers of the container's input.
func TestLateAttachIsDetached(t *testing.T) {
	n := monitornode.Start(t)
	l := n.Spec("c", "sh", "-c", "cat; exit 6")
	l.Stdin, l.StdinOnce = true, true
	n.Launch(l)
	goOn := n.Stall()
	for range 3 {
		ctx, cancel := context.WithTimeout(n.Ctx(), 20*time.Millisecond)
		if _, err := n.Client.Attach(ctx, "c", monitor.AttachOptions{Stdin: true, Stdout: true}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("attach to a stalled monitor: %v", err)
		}
		cancel()
	}
	goOn()
	a, err := n.Client.Attach(n.Ctx(), "c", monitor.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Stdin.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	a.Stdin.Close()
	defer context.AfterFunc(n.Ctx(), func() { a.Stdout.Close() })() // else it reads for ever
	if got := monitornode.ReadAll(t, a.Stdout); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	if e := n.Exit(); e.Code != 6 {
		t.Errorf("exit %+v", e)
	}
}

// TestEndedSessionsAreForgotten ends attachments and commands in each order of
// their end and their close.
func TestEndedSessionsAreForgotten(t *testing.T) {
	n := monitornode.Start(t)
	for i := range 10 {
		id := fmt.Sprint("c", i)
		l := n.Spec(id, "cat")
		l.Stdin, l.StdinOnce = true, true
		n.Launch(l)
		a, err := n.Client.Attach(n.Ctx(), id, monitor.AttachOptions{Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		a.Stdin.Close()
		if i%2 == 0 {
			a.Close()
		}
		p, err := n.Client.Exec(n.Ctx(), monitor.Exec{Argv: []string{"/bin/true"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(n.Ctx()); err != nil {
			t.Error(err)
		}
		n.Exit()
		<-a.Ended()
		a.Close()
	}
	if k := monitor.Sessions(n.Client); k != 0 {
		t.Errorf("%d sessions are remembered", k)
	}
}

// TestSenderWithoutDeadline fills the way to a stalled monitor with requests
// that may take forever: those with a deadline keep it, and all is well when the
// monitor goes on.
func TestSenderWithoutDeadline(t *testing.T) {
	n := monitornode.Start(t)
	n.Launch(n.Spec("c", "sleep", "1000"))
	goOn := n.Stall()
	const patient = 8
	served := make(chan error, patient)
	for range patient {
		go func() {
			var err error
			for range 1000 {
				err = errors.Join(err, n.Client.Forget(context.Background(), strings.Repeat("x", 100)))
			}
			served <- err
		}()
	}
	for range 40 { // each fits or not: in the end none does
		ctx, cancel := context.WithTimeout(n.Ctx(), 20*time.Millisecond)
		long := monitor.Launch{ID: "none", Env: []string{strings.Repeat("x", wire.MaxPacket/2)}}
		_, err := n.Client.Launch(ctx, long)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("request to a stalled monitor: %v", err)
		}
	}
	unbounded := make(chan error, 1)
	giveUp, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := n.Client.Launch(giveUp, monitor.Launch{ID: "none", Env: []string{strings.Repeat("x", wire.MaxPacket/2)}})
		unbounded <- err
	}()
	ctx, done := context.WithTimeout(n.Ctx(), 100*time.Millisecond)
	defer done()
	if err := n.Client.Signal(ctx, "c", 0); !errors.Is(err, context.DeadlineExceeded) {
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
	if err := n.Client.Signal(n.Ctx(), "c", 0); err != nil {
		t.Error(err)
	}
}
