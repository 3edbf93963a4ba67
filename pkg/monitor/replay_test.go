// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

func TestExitsAreReplayedUntilAcknowledged(t *testing.T) {
	n := monitornode.Start(t)
	refused := errors.New("the disk is full")
	n.Refuse = func(e monitor.Exit) error {
		if e.Seq > 1 {
			return refused
		}
		return nil
	}
	for i := range 3 {
		n.Launch(n.Spec(fmt.Sprint("c", i), "sh", "-c", fmt.Sprint("exit ", i)))
		for e := n.Next(); e.Seq != uint64(i+1); e = n.Next() {
			if e.Seq > uint64(i) { // the refused ones come again
				t.Fatalf("exit %+v", e)
			}
		}
	}
	stop := func() {
		n.Stop()
		for len(n.Exits) > 0 { // refused again meanwhile
			<-n.Exits
		}
	}
	for _, again := range []func(){func() {}, n.KillMonitor} {
		stop()
		again()
		n.Connect()
		for i := 1; i < 3; i++ {
			if e := n.Next(); e.Code != i || e.Seq != uint64(i+1) {
				t.Errorf("replayed %+v, want code %d", e, i)
			}
		}
	}
	if err := n.Client.Forget(n.Ctx(), "c1"); err != nil {
		t.Fatal(err)
	}
	stop()
	n.Refuse = nil
	n.Connect()
	if e := n.Next(); e.ID != "c2" {
		t.Errorf("replayed %+v, want c2 alone", e)
	}
	n.Launch(n.Spec("c3", "true"))
	if e := n.Next(); e.ID != "c3" || e.Seq < 4 {
		t.Errorf("next exit %+v", e)
	}
}

// An exit that cannot be recorded is handed over again until it can, holds no
// other up, and is acknowledged together with those that came after it.
func TestRefusedExitComesAgain(t *testing.T) {
	n := monitornode.Start(t)
	var refusals atomic.Int32
	n.Refuse = func(e monitor.Exit) error {
		if e.ID == "c0" && refusals.Add(1) <= 2 {
			return errors.New("the disk is full")
		}
		return nil
	}
	for _, id := range []string{"c0", "c1"} {
		n.Launch(n.Spec(id, "true"))
		if e := n.Next(); e.ID != id {
			t.Fatalf("exit %+v, want %s", e, id)
		}
	}
	monitornode.Eventually(t, "c0 alone is not recorded", func() bool { return slices.Equal(n.Client.Ended(), []string{"c0"}) })
	for range 2 {
		if e := n.Next(); e.ID != "c0" {
			t.Fatalf("exit %+v, want c0 again", e)
		}
	}
	monitornode.Eventually(t, "both are acknowledged", func() bool { return monitor.Acknowledged(n.Client, 1) && monitor.Acknowledged(n.Client, 2) })
	n.Stop()
	n.Connect()
	n.Launch(n.Spec("c2", "true"))
	if e := n.Next(); e.ID != "c2" {
		t.Errorf("replayed %+v", e)
	}
}

// The daemon is told of each monitor that takes over, after the exits that this
// one reports, and not of its own reconnection to the same one.
func TestSuccessorIsReported(t *testing.T) {
	n := monitornode.Start(t)
	if got := n.Taken.Load(); got != 0 {
		t.Errorf("%d successors at the first connection", got)
	}
	for i := range int32(2) {
		n.KillMonitor()
		n.Ready()
		monitornode.Eventually(t, "the successor is reported", func() bool { return n.Taken.Load() == i+1 })
	}
}
