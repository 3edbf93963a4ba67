// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"slices"
	"strings"
)

// Runtime is what is compared with the model.
type Runtime interface {
	// Do does one step.
	Do(Step) Answer
	// Reset removes all that a sequence has made. The error says what is left.
	Reset() error
}

// Failure is a sequence in which the runtime broke a promise.
type Failure struct {
	Steps []Step
	table []string
}

// String is the sequence as a table: step, answer, what the model allowed.
func (f *Failure) String() string { return strings.Join(f.table, "\n") }

// Check does a sequence and returns where the runtime left the model, or nil. The
// runtime is as it was before.
func Check(r Runtime, steps []Step) *Failure {
	f := &Failure{}
	possible := map[World]bool{{}: true}
	broken := false
	for _, s := range steps {
		got := r.Do(s)
		next, allowed := map[World]bool{}, []string{}
		for w := range possible {
			for _, o := range w.outcomes(s) {
				allowed = append(allowed, o.String())
				if after, is := o.matches(s, got); is {
					next[after] = true
				}
			}
		}
		slices.Sort(allowed)
		f.Steps = append(f.Steps, s)
		f.table = append(f.table, fmt.Sprintf("%-36s %-40s allowed: %s", s, got, strings.Join(slices.Compact(allowed), " | ")))
		if possible = next; len(possible) == 0 {
			broken = true
			break
		}
	}
	if err := r.Reset(); err != nil {
		f.table = append(f.table, fmt.Sprintf("%-36s %s", "after the removal of all", err))
		broken = true
	}
	if broken {
		return f
	}
	return nil
}

// String is an answer in the table of a failure.
func (a Answer) String() string {
	if a.Class == "" {
		return strings.TrimSpace("ok " + a.Said)
	}
	return a.Class
}

// matches tells whether an outcome is what was seen, and the world after it, in
// which a code that was not promised is known now.
func (o outcome) matches(s Step, got Answer) (World, bool) {
	if o.Class == Refused {
		return o.next, got.Class != ""
	}
	if o.Answer == got {
		return o.next, true
	}
	var code int
	c := o.next.containers[s.At]
	if s.Kind != Status || got.Class != "" || c != (container{exited, anyCode}) {
		return o.next, s.Kind == PodStatus && got.Class == o.Class && strings.TrimSpace(o.Said) == got.Said
	}
	if n, _ := fmt.Sscanf(got.Said, string(exited)+" %d", &code); n == 0 {
		return o.next, false
	}
	return o.next.with(s.At, container{exited, code}), true
}

// Shrink leaves out of a failing sequence what the failure does not need.
func Shrink(r Runtime, f *Failure) *Failure {
	for size := max(1, len(f.Steps)/2); size > 0; size /= 2 {
		for at := 0; at+size <= len(f.Steps); {
			rest := slices.Concat(f.Steps[:at], f.Steps[at+size:])
			if smaller := Check(r, rest); smaller != nil {
				f = smaller
			} else {
				at += size
			}
		}
	}
	return f
}
