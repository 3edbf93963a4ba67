// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// RunExits commits the monitor's exit feed until ctx ends: an exit is
// acknowledged only when its record is on disk. Acknowledging is cumulative, so
// an exit that cannot be committed (a full disk) is tried until it can.
func (s *Service) RunExits(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-s.Monitor.Exits():
			if !open {
				return nil
			}
			if err := s.commitExit(ctx, e); err != nil {
				return nil // the daemon ends: the exit comes again
			}
			if err := s.Monitor.Ack(ctx, e.Seq); err != nil && ctx.Err() == nil {
				s.Log.Warn("exit not acknowledged, it will be reported again", "container", e.ID, "err", err)
			}
		}
	}
}

// commitRetry is the pause between attempts to write an exit to a disk that
// refuses it: there is no event for "the disk works again".
const commitRetry = time.Second

// commitExit writes one exit, however long that takes; the error is ctx's.
func (s *Service) commitExit(ctx context.Context, e monitor.Exit) error {
	for {
		err := s.exited(ctx, e)
		if err == nil {
			return nil
		}
		s.Log.Error("exit not recorded, trying again", "container", e.ID, "err", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(commitRetry):
		}
	}
}

func (s *Service) exited(ctx context.Context, e monitor.Exit) error {
	err := s.Containers.Exited(ctx, e)
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
		return "ended while nobody could see how"
	case e.Signal != 0:
		return fmt.Sprintf("was killed by signal %d", e.Signal)
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}
