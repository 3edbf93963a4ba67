// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"golang.org/x/sync/errgroup"
)

// recoverParallel is how many objects are recovered at a time.
const recoverParallel = 16

// action is what recovery does with one pod.
type action string

const (
	keep   action = "keep"
	undo   action = "undo"   // a run nobody was told about: tear it down
	finish action = "finish" // a remove that was cut off: tear it down
	down   action = "down"   // pause is gone
	leave  action = "leave"  // pause ended, and the exit feed will say how
	quell  action = "quell"  // it was stopped, or pause ended: end what still runs in it
)

// decide is recovery as a table: what the record says and what the monitor
// knows of pause make one action.
func decide(p state.PodPhase, f container.Fate) action {
	switch p {
	case state.PodCreating:
		return undo
	case state.PodRemoving:
		return finish
	case state.PodReady:
		return map[container.Fate]action{container.Runs: keep, container.Ended: leave, container.Gone: down}[f]
	default: // NotReady
		return quell
	}
}

// Recover is called once, before RunExits, so that exits which came while the
// daemon was away are still to be read. It brings records and kernel back
// together.
// One object that resists, or takes long because a plugin or a process hangs,
// is logged and goes on being torn down in the background; the node starts.
func (s *Service) Recover(ctx context.Context) error {
	watched, err := s.watched(ctx)
	if err != nil {
		return fmt.Errorf("recover: ask the monitor what runs: %w", err)
	}
	fates := map[string]container.Fate{}
	pids := map[string]int{}
	for _, w := range watched {
		fates[w.ID], pids[w.ID] = container.Runs, w.Pid
		if w.Pid == 0 { // its runtime hangs: a kill ends that, and then nothing ran
			fates[w.ID] = container.Gone
		}
	}
	for _, id := range s.Monitor.Ended() {
		fates[id] = container.Ended
	}
	fate := func(id string) container.Fate {
		if f, ok := fates[id]; ok {
			return f
		}
		return container.Gone
	}
	s.each(ctx, s.Store.Containers(), func(ctx context.Context, c state.Container) error {
		if _, err := s.Store.Pod(string(c.Pod)); errdefs.IsNotFound(err) {
			return s.Containers.RemoveOrphan(ctx, c.ID) // its pod's record is lost, and the pod with it
		}
		return s.Containers.Recover(ctx, c, fate(string(c.ID)), pids[string(c.ID)])
	})
	var pods errgroup.Group
	pods.SetLimit(recoverParallel)
	for p := range s.Store.Pods() {
		pods.Go(func() error { s.logFailure(s.recoverPod(ctx, p, fate(string(p.ID)))); return nil })
	}
	pods.Wait()
	limited, cancel := context.WithTimeout(ctx, container.RecoverLimit)
	defer cancel()
	_, err = state.Do(limited, s.Ops, "sweep", func(ctx context.Context) (struct{}, error) {
		err := s.sweep(ctx, fates)
		if err != nil {
			state.Go(s.Ops, "sweep again", func(ctx context.Context) error { return s.sweepAgain(ctx, fates, err) }, func(error) {})
		}
		return struct{}{}, err
	})
	return err
}

// sweepPatience is the longest pause between sweeps: a plugin that was
// uninstalled may stay away for days.
const sweepPatience = time.Minute

// sweepAgain sweeps until it is done, ever more seldom. Nobody knows of an
// orphan, so nobody would ask for its removal.
func (s *Service) sweepAgain(ctx context.Context, watched map[string]container.Fate, err error) error {
	for pause := undoRetry; err != nil && ctx.Err() == nil; pause = min(2*pause, sweepPatience) {
		s.Log.Error("orphans of the last run not torn down, trying again", "in", pause, "err", err)
		select {
		case <-time.After(pause):
			err = s.sweep(ctx, watched)
		case <-ctx.Done():
		}
	}
	return err
}

// launchLimit is how long recovery waits for launches that the last daemon
// left under way: they take milliseconds, unless a runtime hangs.
const launchLimit = 5 * time.Second

// watched asks the monitor what runs.
func (s *Service) watched(ctx context.Context) ([]monitor.Running, error) {
	limited, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	all, err := s.Monitor.ListSettled(limited)
	if err == nil || limited.Err() == nil || ctx.Err() != nil {
		return all, err
	}
	s.Log.Warn("a launch is still under way, recovery goes on without it")
	return s.Monitor.List(ctx)
}

func (s *Service) each(ctx context.Context, all iter.Seq[state.Container], do func(context.Context, state.Container) error) {
	var g errgroup.Group
	g.SetLimit(recoverParallel)
	for c := range all {
		g.Go(func() error { s.logFailure(do(ctx, c)); return nil })
	}
	g.Wait()
}

func (s *Service) logFailure(err error) {
	if err != nil {
		s.Log.Error("recovery goes on without an object, its removal repeats the attempt", "err", err)
	}
}

func (s *Service) recoverPod(ctx context.Context, p state.Pod, fate container.Fate) error {
	if err := oci.HoldLabels(oci.Labels{Process: p.ProcessLabel, Mount: p.MountLabel}); err != nil && p.ProcessLabel != "" {
		s.Log.Warn("SELinux level not held", "pod", p.ID, "err", err)
	}
	act := decide(p.Phase, fate)
	if act != keep && act != leave && act != quell {
		s.Log.Info("pod recovered", "pod", p.ID, "phase", p.Phase, "fate", fate, "action", act)
	}
	switch act {
	case undo, finish:
		limited, cancel := context.WithTimeout(ctx, container.RecoverLimit)
		defer cancel()
		_, err := state.Do(limited, s.Ops, "recover pod "+string(p.ID), func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.undo(ctx, p.ID)
		})
		return err
	case down:
		how := "ended while nobody could see how"
		if s.Store.Rebooted() {
			how = "ended with the node's restart"
		}
		return s.Died(ctx, p.ID, how)
	case quell:
		if slices.ContainsFunc(s.Store.ContainersOf(p.ID), func(c state.Container) bool { return c.Phase.Live() }) {
			s.endContainers(p.ID)
		}
	}
	return nil
}

// undoRetry is the pause between attempts to tear down what the last daemon left
// half done: there is no event for "the plugin works again".
const undoRetry = 5 * time.Second

// undo tears a pod down however long that takes. Nobody knows of a pod whose
// start was cut off, so nobody would ask for its removal.
func (s *Service) undo(ctx context.Context, id state.PodID) error {
	for said := ""; ; {
		err := s.undoOnce(ctx, id)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err.Error() != said { // once, not once per attempt
			said = err.Error()
			s.Log.Error("pod of the last run not torn down, trying again", "pod", id, "err", err)
		}
		select {
		case <-time.After(undoRetry):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Service) undoOnce(ctx context.Context, id state.PodID) error {
	release, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if _, err := s.Store.Pod(string(id)); errdefs.IsNotFound(err) {
		return nil // a repeated request was faster
	}
	return s.teardown(ctx, id)
}

// sweep tears down what carries our names and has no record: ids the monitor
// watches, bundles, directories, snapshots and network namespaces.
func (s *Service) sweep(ctx context.Context, watched map[string]container.Fate) error {
	found := map[string]bool{}
	for id := range watched {
		found[id] = true
	}
	bundles, err := s.Runtime.BundleIDs()
	if err != nil {
		return err
	}
	snapshots, err := s.Images.Keys(ctx)
	if err != nil {
		return err
	}
	for _, id := range append(append(bundles, snapshots...), append(names(s.Layout.Pods()), names(s.Layout.Containers())...)...) {
		found[id[:min(len(id), 64)]] = true // a volume's key is its container's id and a suffix
	}
	return errors.Join(s.removeOrphans(ctx, found), s.sweepNetNS(ctx))
}

// removeOrphans tears down those of the ids that have no record. Whether one was
// a pod or a container is not known: both teardowns find what is theirs. All are
// torn down as containers first, for a pod's cgroup holds its containers'.
func (s *Service) removeOrphans(ctx context.Context, ids map[string]bool) error {
	var errs []error
	var orphans []string
	for id := range ids {
		_, podErr := s.Store.Pod(id)
		_, containerErr := s.Store.Container(id)
		if podErr == nil || containerErr == nil || len(id) != 64 {
			continue
		}
		if err := s.Containers.RemoveOrphan(ctx, state.ContainerID(id)); err != nil {
			errs = append(errs, err)
			continue
		}
		orphans = append(orphans, id)
	}
	for _, id := range orphans {
		errs = append(errs, s.teardown(ctx, state.PodID(id)))
	}
	return errors.Join(errs...)
}

// sweepNetNS removes pinned namespaces of pods that are no more. Their
// addresses are given back by CollectNetwork.
func (s *Service) sweepNetNS(ctx context.Context) error {
	pinned, err := sys.ListNetNS(s.Layout.NetNSTag())
	if err != nil {
		return err
	}
	wanted := map[string]bool{} // asked after the list: a new pod's record is older than its namespace
	for p := range s.Store.Pods() {
		wanted[p.NetNS] = true
	}
	for _, path := range pinned {
		if wanted[path] || ctx.Err() != nil {
			continue
		}
		s.Log.Warn("orphaned network namespace removed", "netns", path)
		if err := sys.RemoveNetNS(path); err != nil {
			return err
		}
	}
	return nil
}

// CollectNetwork gives back every address that no pod of ours holds (CNI GC).
func (s *Service) CollectNetwork(ctx context.Context) error {
	var valid []network.Attachment
	for p := range s.Store.Pods() {
		if p.NetNS != "" {
			valid = append(valid, s.attachment(p))
		}
	}
	return s.Network.GC(ctx, valid)
}

func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
