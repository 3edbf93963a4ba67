// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type verb = func(*subject) error

// operation is what is made to fail and die at each of its steps.
type operation struct {
	name    string
	needs   []verb // brings about what it works on
	act     verb
	state   func(*subject) string
	undone  string     // the state when the operation did not happen
	done    string     // and when it did
	between string     // a third state that a later request leads out of, if there is one
	again   codes.Code // what a repeated request answers after one that worked without anyone hearing of it
	async   bool       // is done by the daemon after the answer: an error in a step of it is not the caller's
}

var (
	pod       = (*subject).podState
	container = (*subject).containerState
	aPod      = []verb{(*subject).run}
	aCreated  = []verb{(*subject).run, (*subject).create}
	aRunning  = []verb{(*subject).run, (*subject).create, (*subject).start}
)

var operations = []operation{
	{name: "run pod", act: (*subject).run, state: pod, undone: none, done: ready},
	{name: "create container", needs: aPod, act: (*subject).create, state: container, undone: none, done: created},
	{name: "start container", needs: aCreated, act: (*subject).start, state: container, undone: created, done: running, between: exited, again: codes.FailedPrecondition},
	{name: "exec", needs: aRunning, act: (*subject).exec, state: container, undone: running, done: running},
	{name: "update", needs: aRunning, act: (*subject).update, state: container, undone: running, done: running},
	{name: "stop container", needs: aRunning, act: (*subject).stop, state: container, undone: running, done: exited, async: true},
	{name: "kill container", needs: aRunning, act: (*subject).kill, state: container, undone: running, done: exited, async: true},
	{name: "remove container", needs: aRunning, act: (*subject).remove, state: container, undone: running, done: none, between: exited, async: true},
	{name: "stop pod", needs: aRunning, act: (*subject).stopPod, state: pod, undone: ready, done: notReady, async: true},
	{name: "remove pod", needs: aRunning, act: (*subject).removePod, state: pod, undone: ready, done: none, between: notReady, async: true},
}

// strike is one fault in one operation, and what came of it.
type strike struct {
	*subject
	operation
	fault
	acknowledged bool
	answer       error
	found        string            // the state afterwards
	clean        nodetest.Snapshot // before the subject was there
	prepared     nodetest.Snapshot // before the operation
}

// promises are what must hold after a fault, in the order in which it is looked at.
var promises = []struct {
	what  string
	when  func(*strike) bool
	holds func(*strike) error
}{
	{
		"what was acknowledged is done",
		func(s *strike) bool { return s.acknowledged },
		func(s *strike) error { return s.in(s.done) },
	},
	{
		"what was not acknowledged is done or not, or waits for the next request",
		func(s *strike) bool { return !s.acknowledged },
		func(s *strike) error { return s.in(s.undone, s.done, s.between) },
	},
	{
		"what answered with an error of its own step is not done",
		func(s *strike) bool {
			own := strings.HasPrefix(s.name, s.Operation) && s.Action == "error"
			return !s.acknowledged && own && s.between == "" && s.undone != s.done && !s.async
		},
		func(s *strike) error { return s.in(s.undone) },
	},
	{
		"what did not happen leaves nothing",
		func(s *strike) bool {
			return !s.acknowledged && s.found == s.undone && s.undone != s.done && len(s.needs) < len(aRunning) // a running container's own files change
		},
		func(s *strike) error { return s.same(s.prepared) },
	},
	{
		"the same request again leads to what is wanted",
		func(*strike) bool { return true },
		func(s *strike) error { return s.repeat(s.operation, s.found) },
	},
	{
		"what leaves the container as it was leaves nothing else either",
		func(s *strike) bool { return s.undone == s.done },
		func(s *strike) error { return s.same(s.prepared) },
	},
	{
		"the pod's removal leaves the machine as it was before",
		func(*strike) bool { return true },
		func(s *strike) error { s.clear(s.clean); return nil },
	},
}

func (s *strike) in(states ...string) error {
	if slices.Contains(states, s.found) {
		return nil
	}
	return fmt.Errorf("after the answer %v the state is %s, want %q", s.answer, s.found, states)
}

func (s *strike) same(want nodetest.Snapshot) error {
	s.AwaitSame(s.t, want, "after the answer "+fmt.Sprint(s.answer))
	return nil
}

// TestEachStep lets every operation fail, and the daemon die, before, within and after each of its steps, as the operation
// itself lists them, and holds what is left against the promises.
func TestEachStep(t *testing.T) {
	f := startFaulty(t)
	by := newBystander(t, f.Node)
	clean := f.Look(t)
	for _, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			for _, place := range f.placesOf(t, o, clean) {
				for _, place.Action = range actions(place) {
					t.Run(place.String(), func(t *testing.T) {
						s := f.strike(t, o, place, clean)
						for _, p := range promises {
							if !p.when(s) {
								continue
							}
							if err := p.holds(s); err != nil {
								t.Errorf("%s: %v", p.what, err)
							}
						}
						by.check(t)
					})
					if t.Failed() {
						return
					}
				}
			}
		})
	}
}

// placesOf runs the operation without faults and lists the places that it passes.
func (f *faulty) placesOf(t *testing.T, o operation, clean nodetest.Snapshot) []fault {
	t.Helper()
	f.plan(t)
	s := f.subjectOf(t, o)
	f.record()
	if err := o.act(s); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // what is done after the answer passes its steps too
	places := f.passed(t)
	s.clear(clean)
	if len(places) == 0 {
		t.Fatal("it passed no places")
	}
	return places
}

// subjectOf is a subject with all that the operation needs.
func (f *faulty) subjectOf(t *testing.T, o operation) *subject {
	t.Helper()
	s := newSubject(t, f.Node)
	for _, do := range o.needs {
		if err := do(s); err != nil {
			t.Fatalf("prepare: %v", err)
		}
	}
	return s
}

// actions are what happens at a place. To die after a step and before the next is the same, nearly, and so is to fail:
// `make test` does one of each.
func actions(place fault) []string {
	switch {
	case !short() || place.Moment == "within":
		return []string{"error", "kill"}
	case place.Moment == "before":
		return []string{"error"}
	}
	return []string{"kill"}
}

// strike runs the operation into one fault.
func (f *faulty) strike(t *testing.T, o operation, place fault, clean nodetest.Snapshot) *strike {
	t.Helper()
	f.plan(t)
	s := &strike{subject: f.subjectOf(t, o), operation: o, fault: place, clean: clean}
	s.prepared = f.Look(t)
	f.plan(t, place)
	s.answer = o.act(s.subject)
	s.acknowledged = s.answer == nil
	nodetest.Eventually(t, 5*time.Second, "the fault strikes", f.struck)
	if place.Action == "kill" {
		s.revive()
	}
	s.found = o.state(s.subject)
	return s
}

// revive starts the daemon that a fault killed.
func (s *subject) revive() {
	s.t.Helper()
	if err := s.AwaitEnd(5 * time.Second); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Up(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// repeat is the kubelet asking again, which must lead to the wanted state.
func (s *subject) repeat(o operation, was string) error {
	s.t.Helper()
	err := o.act(s)
	if o.name == "start container" && was == exited {
		return nil // it ran and was ended: the kubelet makes the next attempt
	}
	if was == o.done && o.again != codes.OK && status.Code(err) == o.again {
		err = nil
	}
	if got := o.state(s); got != o.done {
		err = errors.Join(err, fmt.Errorf("the state is %s, want %s", got, o.done))
	}
	if o.name == "update" {
		if got := s.Status(s.t, s.id).Resources.GetLinux().GetMemoryLimitInBytes(); got != newLimit {
			err = errors.Join(err, fmt.Errorf("memory limit %d, want %d", got, newLimit))
		}
	}
	return err
}
