// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// starts are the runs under way, and what is known of their pause. The exit of
// pause is reported once, and a pod that is not ready yet is its run's to undo: so
// the run is told, and the record stays as it is.
type starts struct {
	mu   sync.Mutex // guards runs
	runs map[state.PodID]pause
}

// pause is what a run knows of its pause process.
type pause struct {
	pid   int    // 0 while the launch is under way
	ended string // how it ended; "" while it has not
}

// begin has the pod's pause watched until over is called. Call it before pause is launched.
func (s *starts) begin(id state.PodID) (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs == nil {
		s.runs = map[state.PodID]pause{}
	}
	s.runs[id] = pause{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.runs, id)
	}
}

// change changes what is known of a pause, if its pod is being run.
func (s *starts) change(id state.PodID, to func(*pause)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, begun := s.runs[id]; begun {
		to(&p)
		s.runs[id] = p
	}
}

// pauseRuns fails once the pause of the pod is known to have ended.
func (s *starts) pauseRuns(id state.PodID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if how := s.runs[id].ended; how != "" {
		return fmt.Errorf("the pause process %s: %w", how, errdefs.ErrAborted)
	}
	return nil
}

// launched lists the pods being run whose pause was launched.
func (s *starts) launched() []state.PodID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []state.PodID
	for id, p := range s.runs {
		if p.pid != 0 {
			ids = append(ids, id)
		}
	}
	return ids
}
