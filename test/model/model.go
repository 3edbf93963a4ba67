// SPDX-License-Identifier: Apache-2.0

// Package model holds a small model of what CRI promises and compares a runtime
// with it: random sequences of calls, crashes and neighbours' faults, each call's
// answer against those that the model allows.
//
// The model is a set of worlds that are possible after all answers so far. A step
// takes each world to its outcomes, an answer and the world after it, and keeps
// those that were seen; when none is left, the runtime broke a promise. So a call
// that was cut off needs no rule of its own: it happened in some worlds and did
// not in others, until an answer tells.
//
// The tests of this package have the services on a node with fake neighbours, and
// test/integration has the daemon on a real one.
//
// It does not cover images, streams, stats and calls side by side.
package model

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Slots bound the objects of one sequence. Container i is in pod i % Pods.
const (
	Pods       = 2
	Containers = 4
)

// Kind is what a step does.
type Kind string

// Calls, and what happens around them.
const (
	Run       Kind = "RunPodSandbox"
	StopPod   Kind = "StopPodSandbox"
	RemovePod Kind = "RemovePodSandbox"
	PodStatus Kind = "PodSandboxStatus"
	Create    Kind = "CreateContainer"
	Start     Kind = "StartContainer"
	Stop      Kind = "StopContainer"    // with a grace, in which the program ends with 0
	Kill      Kind = "StopContainer(0)" // without
	Remove    Kind = "RemoveContainer"
	Status    Kind = "ContainerStatus"
	List      Kind = "ListContainers" // of one pod, with their states
	ListRow   Kind = "ListContainers with a label"
	ListRuns  Kind = "ListContainers that run" // of one pod
	ListPods  Kind = "ListPodSandbox"
	ListReady Kind = "ListPodSandbox that are ready"
	Reopen    Kind = "ReopenContainerLog"
	Exec      Kind = "ExecSync"
	Update    Kind = "UpdateContainerResources"

	End         Kind = "the program ends with 7"
	KillProcess Kind = "kill -9 of the program"
	KillPause   Kind = "kill -9 of pause"
	CrashAtStep Kind = "the daemon dies in the next call"
	Crash       Kind = "kill -9 of the daemon"
	KillMonitor Kind = "kill -9 of the monitor"
	KillBoth    Kind = "kill -9 of daemon and monitor"
	HoldMonitor Kind = "the monitor is stopped for a while"
	FailRun     Kind = "the runtime refuses the next start"
	FailAdd     Kind = "the plugin refuses the next ADD"
	FailDel     Kind = "the plugin refuses the next DEL"
)

// Step is one step; At is the slot it is about.
type Step struct {
	Kind Kind
	At   int
}

// String is the step as the table of a failure has it.
func (s Step) String() string { return fmt.Sprintf("%s %d", s.Kind, s.At) }

// Sequence is n random steps: calls, and around them what the node can do. Most begin with a container that runs, and more than
// half of the steps are about that one, so that they come to what follows its end.
func Sequence(r *rand.Rand, n int, around []Kind) []Step {
	weighted := append([]Kind{
		Run, Run, Run, Run, StopPod, RemovePod, PodStatus, PodStatus, Create, Create, Create, Create, Start, Start, Start, Start,
		Stop, Kill, Remove, Status, Status, Status, List, List, Exec, Update, ListRow, ListRuns, ListPods, ListReady, Reopen,
	}, around...)
	steps := make([]Step, n)
	for i := range steps {
		steps[i] = Step{Kind: weighted[r.IntN(len(weighted))], At: max(0, r.IntN(2*Containers)-Containers)}
	}
	if r.IntN(4) > 0 {
		copy(steps, []Step{{Run, 0}, {Create, 0}, {Start, 0}})
	}
	return steps
}

// phase of a pod or a container.
type phase string

const (
	absent   phase = ""
	ready    phase = "ready"
	notReady phase = "notready"
	failed   phase = "notready " // by a run that could not be undone: the same request starts it again
	leaving  phase = " notready" // its removal has begun, and the next daemon finishes it
	created  phase = "created"
	running  phase = "running"
	exited   phase = "exited"
)

// anyCode is an exit code that nobody promises.
const anyCode = -1

type container struct {
	phase phase
	code  int
}

// World is one state that the runtime can be in.
type World struct {
	pods       [Pods]phase
	containers [Containers]container
	run        bool // the next start of a container or pause is refused
	add, del   bool // the plugin's next command is
	crash      bool // the next call is cut off
}

// Answer is what a step came to: the class of a call's error, "" for none, and
// what the call said.
type Answer struct{ Class, Said string }

// Refused is the class of an error that a neighbour's fault made: any.
const Refused = "refused"

type outcome struct {
	Answer
	next World
}

func ok(next World, said string) outcome       { return outcome{Answer{"", said}, next} }
func no(next World, class string) outcome      { return outcome{Answer{class, ""}, next} }
func (w World) pod(i int) phase                { return w.pods[i%Pods] }
func (w World) withPod(i int, p phase) World   { w.pods[i%Pods] = p; return w }
func (w World) with(i int, c container) World  { w.containers[i] = c; return w }
func (w World) armed(fault func(*World)) World { fault(&w); return w }

// ended is the world in which what runs in a pod was killed.
func (w World) ended(pod int) World {
	for i, c := range w.containers {
		if i%Pods == pod%Pods && c.phase == running {
			w.containers[i] = container{exited, anyCode}
		}
	}
	return w
}

// removed is the world without a pod.
func (w World) removed(pod int) World {
	for i := range w.containers {
		if i%Pods == pod%Pods {
			w.containers[i] = container{}
		}
	}
	return w.withPod(pod, absent)
}

// recovered is the world once the next daemon has recovered. Its neighbours are well.
func (w World) recovered() World {
	w.run, w.add, w.del = false, false, false
	for i, p := range w.pods {
		if p == leaving {
			w = w.removed(i)
		}
	}
	return w
}

// outcomes are all that a step may come to in one world.
func (w World) outcomes(s Step) []outcome {
	switch s.Kind {
	case FailRun:
		return []outcome{ok(w.armed(func(w *World) { w.run = true }), "")}
	case FailAdd:
		return []outcome{ok(w.armed(func(w *World) { w.add = true }), "")}
	case FailDel:
		return []outcome{ok(w.armed(func(w *World) { w.del = true }), "")}
	case CrashAtStep:
		return []outcome{ok(w.armed(func(w *World) { w.crash = true }), "")}
	case Crash, KillBoth:
		return []outcome{ok(w.recovered(), "")}
	case KillMonitor, HoldMonitor:
		return []outcome{ok(w, "")}
	case End: // 138: the signal may come before the program is ready for it
		if w.containers[s.At].phase == running {
			return []outcome{ok(w.with(s.At, container{exited, 7}), ""), ok(w.with(s.At, container{exited, 138}), "")}
		}
		return []outcome{ok(w, "")}
	case KillProcess:
		if w.containers[s.At].phase == running {
			w = w.with(s.At, container{exited, 137})
		}
		return []outcome{ok(w, "")}
	case KillPause:
		if w.pod(s.At) == ready {
			w = w.withPod(s.At, notReady).ended(s.At)
		}
		return []outcome{ok(w, "")}
	}
	if !w.crash {
		return w.call(s)
	}
	w.crash = false
	// The daemon may die before the call, at the end of a process, or after it.
	all := append(w.call(s), w.recovered().call(s)...)
	for _, o := range append(append(all, w.cutOff(s)...), no(w, Refused)) {
		all = append(all, no(o.next.recovered(), Refused))
	}
	return all
}

// cutOff are the worlds in which a part of a call happened.
func (w World) cutOff(s Step) []outcome {
	switch s.Kind {
	case StopPod, RemovePod:
		if w.pod(s.At) != absent {
			w = w.withPod(s.At, notReady)
		}
		return []outcome{no(w, Refused), no(w.ended(s.At), Refused)}
	case Start, Stop, Kill, Remove:
		if p := w.containers[s.At].phase; p == running || p == created && s.Kind == Start {
			return []outcome{no(w.with(s.At, container{exited, anyCode}), Refused), no(w.with(s.At, container{}), Refused)}[:cutEnds(s.Kind)]
		}
	}
	return nil
}

// cutEnds is how many ends a call that was cut off may have: only a removal goes on
// in the next daemon.
func cutEnds(k Kind) int {
	if k == Remove {
		return 2
	}
	return 1
}

func (w World) call(s Step) []outcome {
	switch s.Kind {
	case Run, StopPod, RemovePod, PodStatus:
		return w.podCall(s)
	case List, ListRow, ListRuns:
		return []outcome{ok(w, w.list(s))}
	case ListPods, ListReady:
		return []outcome{ok(w, w.listPods(s.Kind == ListReady))}
	}
	c := w.containers[s.At]
	switch s.Kind {
	case Create:
		return w.create(s.At, c)
	case Start:
		return w.start(s.At, c)
	case Stop, Kill:
		switch {
		case c.phase != running:
			return []outcome{ok(w, "")}
		case s.Kind == Stop: // 143: the signal may come before the program is ready for it
			return []outcome{ok(w.with(s.At, container{exited, 0}), ""), ok(w.with(s.At, container{exited, 143}), "")}
		}
		return []outcome{ok(w.with(s.At, container{exited, 137}), "")}
	case Remove:
		return []outcome{ok(w.with(s.At, container{}), "")}
	}
	switch {
	case c.phase == absent:
		return []outcome{no(w, "NotFound")}
	case s.Kind == Status:
		return []outcome{ok(w, c.String())}
	case c.phase == exited, s.Kind != Update && c.phase != running:
		return []outcome{no(w, "FailedPrecondition")}
	case s.Kind == Exec:
		return []outcome{ok(w, "3")}
	}
	return []outcome{ok(w, "")}
}

// String is a container as its status has it.
func (c container) String() string {
	if c.phase == exited {
		return fmt.Sprintf("%s %d", c.phase, c.code)
	}
	return string(c.phase)
}

func (w World) podCall(s Step) []outcome {
	p := w.pod(s.At)
	switch s.Kind {
	case PodStatus:
		if p == absent {
			return []outcome{no(w, "NotFound")}
		}
		return []outcome{ok(w, string(p))}
	case Run:
		return w.runPod(s.At)
	}
	if p == absent {
		return []outcome{ok(w, "")}
	}
	after := w.withPod(s.At, notReady)
	if s.Kind == RemovePod {
		after = w.withPod(s.At, leaving)
	} else if p != ready {
		after = w
	}
	after = after.ended(s.At)
	all := []outcome{}
	if w.del { // what is released already is not released again
		all = append(all, no(after.armed(func(w *World) { w.del = false }), Refused))
	}
	if s.Kind == RemovePod {
		after = after.removed(s.At)
	}
	return append(all, ok(after, ""))
}

func (w World) runPod(at int) []outcome {
	p := w.pod(at)
	if p == notReady || p == leaving {
		return []outcome{no(w, "AlreadyExists")}
	}
	if p == failed {
		w = w.removed(at)
		p = absent
	}
	if p == ready || !w.run && !w.add {
		return []outcome{ok(w.withPod(at, ready), "")}
	}
	var all []outcome
	for _, left := range []World{{}, {run: w.run}, {add: w.add}} { // what fails first may keep the other from being asked
		after := w
		after.run, after.add = left.run, left.add
		all = append(all, no(after, Refused))
		if after.del = false; w.del {
			all = append(all, no(after, Refused), no(after.withPod(at, failed), Refused))
		}
	}
	return all
}

func (w World) create(at int, c container) []outcome {
	switch p := w.pod(at); {
	case p == absent:
		return []outcome{no(w, "NotFound")}
	case p != ready:
		return []outcome{no(w, "FailedPrecondition")}
	case c.phase == running, c.phase == exited:
		return []outcome{no(w, "AlreadyExists")}
	}
	return []outcome{ok(w.with(at, container{phase: created}), "")}
}

func (w World) start(at int, c container) []outcome {
	switch {
	case c.phase == absent:
		return []outcome{no(w, "NotFound")}
	case w.pod(at) != ready, c.phase != created:
		return []outcome{no(w, "FailedPrecondition")}
	case w.run:
		w.run = false
		return []outcome{no(w.with(at, container{exited, 128}), Refused)}
	}
	return []outcome{ok(w.with(at, container{phase: running}), "")}
}

// row is the label of a container. Rows are across pods.
func row(container int) string { return fmt.Sprint(container / Pods) }

// list is what the containers of a pod or a row are.
func (w World) list(s Step) string {
	var text strings.Builder
	for i, c := range w.containers {
		inPod := s.Kind != ListRow && i%Pods == s.At%Pods && (s.Kind == List || c.phase == running)
		inRow := s.Kind == ListRow && row(i) == row(s.At)
		if (inPod || inRow) && c.phase != absent {
			fmt.Fprintf(&text, "%d %s;", i, c.phase)
		}
	}
	return text.String()
}

// listPods is what all pods are, or those that are ready.
func (w World) listPods(onlyReady bool) string {
	var text strings.Builder
	for i, p := range w.pods {
		if p == ready || p != absent && !onlyReady {
			fmt.Fprintf(&text, "%d %s;", i, strings.TrimSpace(string(p)))
		}
	}
	return text.String()
}
