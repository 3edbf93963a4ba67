// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// recoverParallel is how many objects are recovered at a time.
const recoverParallel = 16

// action is what recovery does with one pod.
type action string

const (
	keep   action = "keep"
	undo   action = "undo"   // a run that was never acknowledged: tear it down
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

// Recover is called once, beside RunExits. It brings the records in line with
// what runs, after which every call can be answered. What was cut off half-way is
// undone or finished in the background, and what has no record is removed:
// calls for the same objects wait for their locks, others do not.
func (s *Service) Recover(ctx context.Context) error {
	r := records{pods: slices.Collect(s.Store.Pods()), containers: slices.Collect(s.Store.Containers())}
	for _, p := range r.pods {
		s.holdLabels(p)
	}
	each(r.containers, func(c state.Container) rest {
		if c.Phase == state.Running {
			s.logFailure(s.Containers.ForgetExecs(c))
		}
		return nil
	})
	seen, rests, err := s.compare(ctx, r)
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	s.Log.Info("records are recovered", "resumed", len(rests))
	state.Go(s.Ops, recovery, func(ctx context.Context) error {
		began := time.Now()
		s.finish(ctx, rests)
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

// reconcile runs the tables of recovery over what is live: another monitor has
// taken over, and what it does not watch has ended or will never be seen to end.
// Whatever is not live is an operation's, which is told by its own calls, but for
// a run whose pause was launched by then: it makes no more.
func (s *Service) reconcile(ctx context.Context) error {
	launched := s.starts.launched() // before the phases: a run that is over by now has moved its pod
	var r records
	for p := range s.Store.Pods() {
		if p.Phase == state.PodReady {
			r.pods = append(r.pods, p)
		}
	}
	for c := range s.Store.Containers() {
		if c.Phase.Live() {
			r.containers = append(r.containers, c)
		}
	}
	seen, rests, err := s.compare(ctx, r)
	if err != nil {
		return fmt.Errorf("reconcile with the new monitor: %w", err)
	}
	for _, id := range launched {
		if seen.fate(string(id)) != container.Gone {
			continue
		}
		if err := s.Died(ctx, id, s.howGone()); err != nil && !errdefs.IsNotFound(err) {
			s.logFailure(err)
		}
	}
	state.Go(s.Ops, "reconcile "+state.NewID(), func(ctx context.Context) error {
		s.finish(ctx, rests)
		return nil
	}, func(error) {})
	return nil
}

// records are what is compared with what the monitor watches.
type records struct {
	pods       []state.Pod
	containers []state.Container
}

// compare brings records in line with what the monitor watches, and returns
// what is left to do. The records must have been read before: what ran then is
// watched, or its exit is not recorded yet, or it was recorded meanwhile and
// moves no further.
func (s *Service) compare(ctx context.Context, r records) (view, []rest, error) {
	watched, err := s.Monitor.List(ctx)
	if err != nil {
		return view{}, nil, fmt.Errorf("ask the monitor what runs: %w", err)
	}
	seen := newView(watched, s.Monitor.Ended())
	rests := each(r.containers, func(c state.Container) rest { return s.recoverContainer(ctx, c, seen) })
	return seen, append(rests, each(r.pods, func(p state.Pod) rest { return s.recoverPod(ctx, p, seen) })...), nil
}

// recovery is the name of the operation that does what no call has to wait for.
const recovery = "recovery"

// AwaitRecovered returns when nothing that the last daemon left half done, or
// without a record, is there any more, or ctx ends.
func (s *Service) AwaitRecovered(ctx context.Context) error {
	_, err := state.Do(ctx, s.Ops, recovery, func(context.Context) (struct{}, error) { return struct{}{}, nil })
	return err
}

// view is what the monitor knows at one moment.
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
func each[R any](records []R, do func(R) rest) []rest {
	var mu sync.Mutex
	var left []rest
	var g errgroup.Group
	g.SetLimit(recoverParallel)
	for _, r := range records {
		g.Go(func() error {
			if more := do(r); more != nil {
				mu.Lock()
				defer mu.Unlock()
				left = append(left, more)
			}
			return nil
		})
	}
	_ = g.Wait() // none of them returns an error
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
				s.Log.Warn("recovery of an object takes long, it continues in the background", "err", err)
				return nil
			}
			s.logFailure(err)
			return nil
		})
	}
	_ = g.Wait() // none of them returns an error
}

func (s *Service) logFailure(err error) {
	if err != nil {
		s.Log.Error("object not recovered, its removal will try again", "err", err)
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

// holdLabels keeps the SELinux level of a pod from being given to another.
func (s *Service) holdLabels(p state.Pod) {
	if err := confine.HoldLabels(confine.Labels{Process: p.ProcessLabel, Mount: p.MountLabel}); err != nil && p.ProcessLabel != "" {
		s.Log.Warn("SELinux level not reserved", "pod", p.ID, "err", err)
	}
}

func (s *Service) recoverPod(ctx context.Context, p state.Pod, seen view) rest {
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
	return "ended while no monitor watched it"
}

// undoRetry is the pause between attempts to tear down what the last daemon left
// half done: there is no event for "the plugin works again".
const undoRetry = 5 * time.Second

// undo tears a pod down however long that takes. No client knows the id of a
// pod whose start was interrupted, so none would ask for its removal.
func (s *Service) undo(ctx context.Context, id state.PodID) error {
	for said := ""; ; {
		err := s.undoOnce(ctx, id)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err.Error() != said { // once, not once per attempt
			said = err.Error()
			s.Log.Error("pod left by the last daemon not torn down, trying again", "pod", id, "err", err)
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
