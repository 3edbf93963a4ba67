// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"testing"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// Every cell: what a record says and what the monitor knows make one action.
func TestDecide(t *testing.T) {
	want := map[state.PodPhase][4]action{ // columns: runs, launching, ended, gone
		state.PodCreating: {undo, undo, undo, undo},
		state.PodReady:    {keep, leave, leave, down},
		state.PodNotReady: {quell, quell, quell, quell},
		state.PodRemoving: {finish, finish, finish, finish},
	}
	for phase, row := range want {
		for i, fate := range []container.Fate{container.Runs, container.Launching, container.Ended, container.Gone} {
			if got := decide(phase, fate); got != row[i] {
				t.Errorf("%s, %s: %s, want %s", phase, fate, got, row[i])
			}
		}
	}
}
