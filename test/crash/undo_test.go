// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// undoings are operations that fail late, so that there is much to undo.
var undoings = []struct {
	subject subject
	late    plannedFault
	recover string // the operation by which a restart undoes it
}{
	{subjects[0], plannedFault{Operation: "run", Step: "write hosts file", Moment: "after"}, "recover pod"},
	{subjects[1], plannedFault{Operation: "create", Step: "build spec", Moment: "after"}, "recover container"},
}

// sample is how many places `make test` passes by for each that it tries.
const sample = 5

// TestDieWhileUndoing kills the daemon at each step of the roll-back of a
// failure, and at each step of the recovery from an earlier kill.
func TestDieWhileUndoing(t *testing.T) {
	n := faultyNode(t)
	by := n.bystander()
	warm(t, n.Node)
	clean := n.Node.Look(t)
	for _, u := range undoings {
		for _, first := range []string{"error", "kill"} {
			late := u.late
			late.Action = first
			places := n.placesOfUndoing(t, u.subject, late, u.recover, clean)
			if len(places) < 4 {
				t.Fatalf("undoing passed only %v", places)
			}
			for i, place := range places {
				if os.Getenv("CRASH_KILLS") == "" && i%sample != 0 {
					continue
				}
				place.Action = "kill"
				t.Run(late.String()+", "+place.String(), func(t *testing.T) {
					n.t = t
					n.dieTwice(t, u.subject, late, place, clean)
					by.check(t, n)
				})
				if t.Failed() {
					return
				}
			}
			n.t = t
		}
	}
}

// placesOfUndoing lets the operation fail once, and lists the places that
// undoing it passes.
func (n *node) placesOfUndoing(t *testing.T, s subject, late plannedFault, recovery string, clean nodetest.Snapshot) []plannedFault {
	t.Helper()
	n.plan()
	w := n.world(t)
	w.prepare(s)
	n.record()
	n.plan(late)
	if err := s.act(w); err == nil {
		t.Fatal("the operation works in spite of a fault")
	}
	if late.Action == "kill" {
		w.revive()
		n.AwaitRecovered(t)
	}
	var out []plannedFault
	undoing := false
	for _, p := range n.passed() {
		same := p
		same.Action = late.Action
		switch {
		case same == late:
			undoing = true
		case late.Action == "kill" && p.Operation == recovery, late.Action == "error" && undoing:
			out = append(out, p)
		}
	}
	w.clear(clean)
	return out
}

// dieTwice lets the operation fail or die, and the daemon die while it undoes that.
func (n *node) dieTwice(t *testing.T, s subject, late, place plannedFault, clean nodetest.Snapshot) {
	w := n.world(t)
	n.plan()
	w.prepare(s)
	prepared := n.Node.Look(t)
	n.plan(late, place)
	if err := s.act(w); err == nil {
		t.Error("the operation works in spite of a fault")
	}
	if late.Action == "kill" {
		if err := w.AwaitEnd(patience); err != nil {
			t.Fatal(err)
		}
		w.Up(t.Context()) // dies in the recovery, before or after it serves
	}
	nodetest.Eventually(t, patience, "both faults strike", n.struck)
	w.revive()
	if got := s.state(w); got != s.undone {
		t.Errorf("the state is %s, want %s", got, s.undone)
	}
	n.Node.AwaitSame(t, prepared, "what did not happen left something")
	w.repeat(s, s.undone)
	w.clear(clean)
}
