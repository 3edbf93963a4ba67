// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"sync"
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
		return map[container.Fate]action{container.Runs: keep, container.Launching: leave, container.Ended: leave, container.Gone: down}[f]
	default: // NotReady
		return quell
	}
}

// Recover is called once, before RunExits, so that exits which came while the
// daemon was away are still to be read. It brings the records in line with what
// runs, after which every call can be answered. What was cut off half-way is
// undone or finished in the background, and so is what nobody has a record of:
// calls for the same objects wait for their locks, others do not.
func (s *Service) Recover(ctx context.Context) error {
	watched, err := s.Monitor.List(ctx)
	if err != nil {
		return fmt.Errorf("recover: ask the monitor what runs: %w", err)
	}
	seen := newView(watched, s.Monitor.Ended())
	containers := each(s.Store.Containers(), func(c state.Container) rest { return s.recoverContainer(ctx, c, seen) })
	pods := each(s.Store.Pods(), func(p state.Pod) rest { return s.recoverPod(ctx, p, seen) })
	s.Log.Info("records are recovered", "resumed", len(containers)+len(pods))
	state.Go(s.Ops, recovery, func(ctx context.Context) error {
		began := time.Now()
		s.finish(ctx, containers)
		s.finish(ctx, pods)
		err := s.sweep(ctx, seen)
		if err != nil {
			err = s.sweepAgain(ctx, seen, err)
		}
		if err == nil {
			s.Log.Info("recovery is complete", "dur", time.Since(began))
		}
		return err
	}, func(error) {})
	return nil
}

// recovery is the name of the operation that does what no call has to wait for.
const recovery = "recovery"

// AwaitRecovered returns when nothing that the last daemon left half done, or
// without a record, is there any more, or ctx ends.
func (s *Service) AwaitRecovered(ctx context.Context) error {
	_, err := state.Do(ctx, s.Ops, recovery, func(context.Context) (struct{}, error) { return struct{}{}, nil })
	return err
}

// view is what the monitor knew when recovery began.
type view struct {
	fates map[string]container.Fate
	pids  map[string]int
}

func newView(watched []monitor.Running, ended []string) view {
	v := view{fates: map[string]container.Fate{}, pids: map[string]int{}}
	for _, w := range watched {
		v.fates[w.ID], v.pids[w.ID] = container.Runs, w.Pid
		if w.Pid == 0 {
			v.fates[w.ID] = container.Launching
		}
	}
	for _, id := range ended {
		v.fates[id] = container.Ended
	}
	return v
}

func (v view) fate(id string) container.Fate {
	if f, ok := v.fates[id]; ok {
		return f
	}
	return container.Gone
}

// rest is what is left to do for an object once its record is right; nil when
// that is nothing.
type rest func(context.Context) error

// each recovers the records, some at a time, and returns what is left to do.
func each[R any](records iter.Seq[R], do func(R) rest) []rest {
	var mu sync.Mutex
	var left []rest
	var g errgroup.Group
	g.SetLimit(recoverParallel)
	for r := range records {
		g.Go(func() error {
			if more := do(r); more != nil {
				mu.Lock()
				defer mu.Unlock()
				left = append(left, more)
			}
			return nil
		})
	}
	g.Wait()
	return left
}

// finishLimit is how long one object may keep others waiting for their turn.
// They take milliseconds, unless a plugin or a process hangs: that goes on by
// itself.
const finishLimit = 5 * time.Second

// finish does what is left to do, some at a time. What fails is logged.
func (s *Service) finish(ctx context.Context, all []rest) {
	var g errgroup.Group
	g.SetLimit(recoverParallel)
	for _, do := range all {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, finishLimit)
			defer cancel()
			err := do(ctx)
			if ctx.Err() != nil {
				s.Log.Warn("recovery of an object takes long, and goes on by itself", "err", err)
				return nil
			}
			s.logFailure(err)
			return nil
		})
	}
	g.Wait()
}

func (s *Service) logFailure(err error) {
	if err != nil {
		s.Log.Error("recovery goes on without an object, its removal repeats the attempt", "err", err)
	}
}

func (s *Service) recoverContainer(ctx context.Context, c state.Container, seen view) rest {
	if _, err := s.Store.Pod(string(c.Pod)); errdefs.IsNotFound(err) { // its pod's record is lost, and the pod with it
		return func(ctx context.Context) error { return s.Containers.RemoveOrphan(ctx, c.ID) }
	}
	more, err := s.Containers.Recover(ctx, c, seen.fate(string(c.ID)), seen.pids[string(c.ID)])
	s.logFailure(err)
	return more
}

// sweepPatience is the longest pause between sweeps: a plugin that was
// uninstalled may stay away for days.
const sweepPatience = time.Minute

// sweepAgain sweeps until it is done, ever more seldom. Nobody knows of an
// orphan, so nobody would ask for its removal.
func (s *Service) sweepAgain(ctx context.Context, seen view, err error) error {
	for pause := undoRetry; err != nil && ctx.Err() == nil; pause = min(2*pause, sweepPatience) {
		s.Log.Error("orphans of the last run not torn down, trying again", "in", pause, "err", err)
		select {
		case <-time.After(pause):
			err = s.sweep(ctx, seen)
		case <-ctx.Done():
		}
	}
	return err
}

func (s *Service) recoverPod(ctx context.Context, p state.Pod, seen view) rest {
	if err := oci.HoldLabels(oci.Labels{Process: p.ProcessLabel, Mount: p.MountLabel}); err != nil && p.ProcessLabel != "" {
		s.Log.Warn("SELinux level not held", "pod", p.ID, "err", err)
	}
	fate := seen.fate(string(p.ID))
	act := decide(p.Phase, fate)
	if act != keep && act != leave && act != quell {
		s.Log.Info("pod recovered", "pod", p.ID, "phase", p.Phase, "fate", fate, "action", act)
	}
	switch act {
	case undo, finish:
		return func(ctx context.Context) error {
			_, err := state.Do(ctx, s.Ops, "recover pod "+string(p.ID), func(ctx context.Context) (struct{}, error) {
				return struct{}{}, s.undo(ctx, p.ID)
			})
			return err
		}
	case down:
		s.logFailure(s.Died(ctx, p.ID, s.howGone()))
	case quell:
		if slices.ContainsFunc(s.Store.ContainersOf(p.ID), func(c state.Container) bool { return c.Phase.Live() }) {
			s.endContainers(p.ID)
		}
	case keep, leave:
	}
	return nil
}

// howGone says what became of a pause process that is gone.
func (s *Service) howGone() string {
	if s.Store.Rebooted() {
		return "ended with the node's restart"
	}
	return "ended while nobody could see how"
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
// watches, bundles, directories, snapshots and network namespaces. It may run
// beside calls: a record is older than what is made for it, and is dropped last.
func (s *Service) sweep(ctx context.Context, seen view) error {
	known := s.recorded() // before the search: what is removed meanwhile is no orphan
	found, err := s.traces(ctx, seen)
	if err != nil {
		return err
	}
	for id := range known {
		delete(found, id)
	}
	return errors.Join(s.removeOrphans(ctx, found), s.sweepNetNS(ctx))
}

// recorded is the set of all ids with a record.
func (s *Service) recorded() map[string]bool {
	ids := map[string]bool{}
	for p := range s.Store.Pods() {
		ids[string(p.ID)] = true
	}
	for c := range s.Store.Containers() {
		ids[string(c.ID)] = true
	}
	return ids
}

// traces is the set of ids of which something exists on the node.
func (s *Service) traces(ctx context.Context, seen view) (map[string]bool, error) {
	found := map[string]bool{}
	for id := range seen.fates {
		found[id] = true
	}
	bundles, err := s.Runtime.BundleIDs()
	if err != nil {
		return nil, err
	}
	snapshots, err := s.Images.Keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range append(append(bundles, snapshots...), append(names(s.Layout.Pods()), names(s.Layout.Containers())...)...) {
		found[id[:min(len(id), 64)]] = true // a volume's key is its container's id and a suffix
	}
	return found, nil
}

// removeOrphans tears down those of the ids that have no record. Whether one was
// a pod or a container is not known: both teardowns find what is theirs. All are
// torn down as containers first, for a pod's cgroup holds its containers'.
func (s *Service) removeOrphans(ctx context.Context, ids map[string]bool) error {
	recorded := s.recorded() // again: what was begun since is no orphan either
	var errs []error
	var orphans []string
	for id := range ids {
		if recorded[id] || len(id) != 64 {
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
