// SPDX-License-Identifier: Apache-2.0

package container

import (
	"testing"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// Every cell: what a record says and what the monitor knows make one action.
func TestDecide(t *testing.T) {
	want := map[state.Phase][4]action{ // columns: runs, launching, ended, gone
		state.Creating: {undo, undo, undo, undo},
		state.Created:  {keep, keep, keep, keep},
		state.Starting: {adopt, await, leave, withdraw},
		state.Running:  {keep, leave, leave, exitUnknown},
		state.Exited:   {keep, keep, keep, keep},
		state.Removing: {finish, finish, finish, finish},
	}
	for phase, row := range want {
		for i, fate := range []Fate{Runs, Launching, Ended, Gone} {
			if got := decide(phase, fate); got != row[i] {
				t.Errorf("%s, %s: %s, want %s", phase, fate, got, row[i])
			}
		}
	}
}
