// SPDX-License-Identifier: Apache-2.0

package state

import (
	"testing"

	"github.com/containerd/errdefs"
)

// Every cell of both tables; a phase or event added later fails here until it
// has its row.
func TestContainerPhases(t *testing.T) {
	phases := []Phase{Creating, Created, Starting, Running, Exited, Removing}
	events := []Event{Prepared, Launch, Withdraw, Run, Exit, Remove}
	want := map[Phase][]Phase{ // columns in the order of events; "" is refused
		Creating: {Created, "", "", "", "", Removing},
		Created:  {"", Starting, "", "", Exited, Removing},
		Starting: {"", "", Created, Running, Exited, Removing},
		Running:  {"", "", "", "", Exited, Removing},
		Exited:   {"", "", "", "", "", Removing},
		Removing: {"", "", "", "", "", Removing},
	}
	for _, p := range phases {
		for i, e := range events {
			got, err := nextContainer(p, e)
			if got != want[p][i] {
				t.Errorf("%s --%s--> %q, want %q", p, e, got, want[p][i])
			}
			if (want[p][i] == "") != errdefs.IsFailedPrecondition(err) {
				t.Errorf("%s --%s-->: error %v", p, e, err)
			}
		}
	}
}

func TestPodPhases(t *testing.T) {
	phases := []PodPhase{PodCreating, PodReady, PodNotReady, PodRemoving}
	events := []PodEvent{PodUp, PodDown, PodRemove}
	want := map[PodPhase][]PodPhase{
		PodCreating: {PodReady, PodNotReady, PodRemoving},
		PodReady:    {"", PodNotReady, PodRemoving},
		PodNotReady: {"", PodNotReady, PodRemoving},
		PodRemoving: {"", "", PodRemoving},
	}
	for _, p := range phases {
		for i, e := range events {
			got, err := nextPod(p, e)
			if got != want[p][i] {
				t.Errorf("%s --%s--> %q, want %q", p, e, got, want[p][i])
			}
			if (want[p][i] == "") != errdefs.IsFailedPrecondition(err) {
				t.Errorf("%s --%s-->: error %v", p, e, err)
			}
		}
	}
}
