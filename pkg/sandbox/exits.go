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
// acknowledged only when its record is on disk. One that cannot be committed (a
// full disk) is tried until it can, and holds no other up.
func (s *Service) RunExits(ctx context.Context) error {
	var behind []*unrecorded
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil // what is not acknowledged comes again
		case e, open := <-s.Monitor.Exits():
			if !open {
				return nil
			}
			u := &unrecorded{Exit: e}
			s.commitExit(ctx, u)
			behind = append(behind, u)
		case <-again:
			for _, u := range behind {
				s.commitExit(ctx, u)
			}
			again = nil
		}
		behind = s.acknowledge(ctx, behind)
		if len(behind) > 0 && again == nil {
			again = time.After(commitRetry)
		}
	}
}

// unrecorded is an exit that is not acknowledged yet.
type unrecorded struct {
	monitor.Exit
	done bool  // on disk
	err  error // of the last attempt to get it there
}

// commitRetry is the pause between attempts to write an exit to a disk that
// refuses it: there is no event for "the disk works again".
const commitRetry = time.Second

// commitExit writes one exit, if it can.
func (s *Service) commitExit(ctx context.Context, u *unrecorded) {
	if u.done {
		return
	}
	before := u.err
	u.err = s.exited(ctx, u.Exit)
	u.done = u.err == nil
	switch {
	case before == nil && u.err != nil: // once, not once a second
		s.Log.Error("exit not recorded, trying until it is", "container", u.ID, "err", u.err)
	case before != nil && u.done:
		s.Log.Info("exit recorded after all", "container", u.ID)
	}
}

// acknowledge lets the monitor forget what is on disk and returns the rest.
// Acknowledging is cumulative, so it goes as far as the first that is not.
func (s *Service) acknowledge(ctx context.Context, behind []*unrecorded) []*unrecorded {
	n := 0
	for n < len(behind) && behind[n].done {
		n++
	}
	if n == 0 {
		return behind
	}
	if err := s.Monitor.Ack(ctx, behind[n-1].Seq); err != nil && ctx.Err() == nil {
		s.Log.Warn("exit not acknowledged, it will be reported again", "container", behind[n-1].ID, "err", err)
	}
	return behind[n:]
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
