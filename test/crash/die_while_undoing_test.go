// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// undoings are operations that fail late, so that there is much to undo.
var undoings = []struct {
	operation operation
	late      fault
	recover   string // the operation by which a restart undoes it
}{
	{operations[0], fault{Operation: "run", Step: "write hosts file", Moment: "after"}, "recover pod"},
	{operations[1], fault{Operation: "create", Step: "build spec", Moment: "after"}, "recover container"},
}

// sample is how many places `make test` passes by for each that it tries.
const sample = 5

// TestDieWhileUndoing kills the daemon at each step of the roll-back of a failure, and at each step of the recovery from
// an earlier kill. What did not happen leaves nothing all the same.
func TestDieWhileUndoing(t *testing.T) {
	f := startFaulty(t)
	by := newBystander(t, f.Node)
	warm(t, f.Node)
	clean := f.Look(t)
	for _, u := range undoings {
		for _, first := range []string{"error", "kill"} {
			late := u.late
			late.Action = first
			places := f.placesOfUndoing(t, u.operation, late, u.recover, clean)
			if len(places) < 4 {
				t.Fatalf("undoing passed only %v", places)
			}
			for i, place := range places {
				if short() && i%sample != 0 {
					continue
				}
				place.Action = "kill"
				t.Run(late.String()+", "+place.String(), func(t *testing.T) {
					f.dieTwice(t, u.operation, late, place, clean)
					by.check(t)
				})
				if t.Failed() {
					return
				}
			}
		}
	}
}

var errWorks = errors.New("the operation works in spite of a fault")

// placesOfUndoing lets the operation fail once, and lists the places that undoing it passes.
func (f *faulty) placesOfUndoing(t *testing.T, o operation, late fault, recovery string, clean nodetest.Snapshot) []fault {
	t.Helper()
	f.plan(t)
	s := f.subjectOf(t, o)
	f.record()
	f.plan(t, late)
	if err := o.act(s); err == nil {
		t.Fatal(errWorks)
	}
	if late.Action == "kill" {
		s.revive()
		f.AwaitRecovered(t)
	}
	var out []fault
	undoing := false
	for _, p := range f.passed(t) {
		same := p
		same.Action = late.Action
		switch {
		case same == late:
			undoing = true
		case late.Action == "kill" && p.Operation == recovery, late.Action == "error" && undoing:
			out = append(out, p)
		}
	}
	s.clear(clean)
	return out
}

// dieTwice lets the operation fail or die, and the daemon die while it undoes that.
func (f *faulty) dieTwice(t *testing.T, o operation, late, place fault, clean nodetest.Snapshot) {
	t.Helper()
	f.plan(t)
	s := f.subjectOf(t, o)
	before := f.Look(t)
	f.plan(t, late, place)
	if err := o.act(s); err == nil {
		t.Error(errWorks)
	}
	if late.Action == "kill" {
		if err := f.AwaitEnd(patience); err != nil {
			t.Fatal(err)
		}
		_ = f.Up(t.Context()) // dies in the recovery, before or after it serves
	}
	nodetest.Eventually(t, patience, "both faults strike", f.struck)
	s.revive()
	if got := o.state(s); got != o.undone {
		t.Errorf("the state is %s, want %s", got, o.undone)
	}
	f.AwaitSame(t, before, "what did not happen left something")
	if err := s.repeat(o, o.undone); err != nil {
		t.Errorf("the repeated request: %v", err)
	}
	s.clear(clean)
}
