// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// RunExits records the exits that the monitor reports until ctx ends, and
// compares the records with what runs whenever another monitor has taken over.
// It may run before and beside Recover.
func (s *Service) RunExits(ctx context.Context) error {
	return s.Monitor.RunExits(ctx, monitor.ExitHandler{Record: s.recordExit, Reconcile: s.reconcile})
}

// recordExit records the end of a container or of a pod's pause. Once it
// returns nil the monitor may forget the exit; it may come twice.
func (s *Service) recordExit(ctx context.Context, e monitor.Exit) error {
	err := s.Containers.RecordExit(ctx, e)
	if !errdefs.IsNotFound(err) {
		return err
	}
	err = s.Died(ctx, state.PodID(e.ID), howEnded(e))
	if errdefs.IsNotFound(err) {
		return nil // removed since, or an orphan that is being torn down
	}
	return err
}

func howEnded(e monitor.Exit) string {
	switch {
	case e.OOM:
		return "was killed for lack of memory"
	case e.Unknown:
		return "ended while no monitor watched it"
	case e.Signal != 0:
		return fmt.Sprintf("was killed by signal %d", e.Signal)
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}
