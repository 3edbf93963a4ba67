// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// starts are the runs under way, and whether their pause has ended. The exit of
// pause is reported once, and a pod that is not ready yet is its run's to undo: so
// the run is told, and the record stays as it is.
type starts struct {
	mu    sync.Mutex             // guards ended
	ended map[state.PodID]string // how pause ended; "" while it has not
}

// begin has the pod's pause watched until over is called. Call it before pause is launched.
func (s *starts) begin(id state.PodID) (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = map[state.PodID]string{}
	}
	s.ended[id] = ""
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ended, id)
	}
}

// pauseEnded notes how the pause of a pod ended that is being run, if it is.
func (s *starts) pauseEnded(id state.PodID, how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, begun := s.ended[id]; begun {
		s.ended[id] = how
	}
}

// pauseRuns fails once the pause of the pod is known to have ended.
func (s *starts) pauseRuns(id state.PodID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if how := s.ended[id]; how != "" {
		return fmt.Errorf("the pause process %s: %w", how, errdefs.ErrAborted)
	}
	return nil
}
