// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Span says how long an item may be there.
type Span int

// The spans: with what an item must have gone.
const (
	OfPod  Span = iota // with its pod, container or session
	OfNode             // with the node, when it is wiped
	Kept               // it may stay: images, records of the machine
)

// Item is one thing that the machine holds of a node.
type Item struct {
	Kind string // mount, process ...
	Name string
	Span Span
}

// String is how leaks are told.
func (i Item) String() string { return i.Kind + ": " + i.Name }

// Snapshot is what the machine holds of a node, with how many there are of each.
type Snapshot map[Item]int

// finders are the kinds of items. This is the one list of what counts as a leak.
var finders = []struct {
	kind string
	find func(*Node) ([]Item, error)
}{
	{"process", (*Node).processes},
	{"mount", (*Node).mounts},
	{"cgroup", (*Node).cgroups},
	{"network namespace", (*Node).namespaces},
	{"interface", (*Node).links},
	{"rule", (*Node).rules},
	{"file", (*Node).files},
	{"shared file", (*Node).sharedFiles},
	{"temporary file", (*Node).temporaryFiles},
	{"lease", (*Node).leases},
	{descriptor, (*Node).descriptors},
	{goroutine, (*Node).goroutines},
}

// Kinds that come and go a little after the answer to a call, with the ends of connections.
const (
	descriptor = "descriptor"
	goroutine  = "goroutine"
)

// Snapshot looks at the machine. A thing is the node's when it carries the node's folder, bridge or subnet, an id that
// the node's log tells of, or a name that its root directory decides; with Alone, also when it is in this process's mount
// and network namespaces and was not there before.
func (n *Node) Snapshot() (Snapshot, error) {
	s := Snapshot{}
	for _, f := range finders {
		found, err := f.find(n)
		if err != nil {
			return nil, fmt.Errorf("look for each %s: %w", f.kind, err)
		}
		for _, i := range found {
			i.Kind = f.kind
			s[i]++
		}
	}
	return s, nil
}

// Left lists what is in s and not in before, of things that should not outlive span.
func (s Snapshot) Left(before Snapshot, span Span) []Item {
	var left []Item
	for i, count := range s {
		if count > before[i] && i.Span <= span {
			left = append(left, i)
		}
	}
	slices.SortFunc(left, func(a, b Item) int { return cmp.Compare(a.String(), b.String()) })
	return left
}

// Diff says how s differs from before, whatever its span: "left:" for what is there now and was not, "lost:" for what is
// not there any more. Fewer descriptors and goroutines are no loss.
func (s Snapshot) Diff(before Snapshot) []string {
	var diff []string
	for _, i := range s.Left(before, Kept) {
		diff = append(diff, "left: "+i.String())
	}
	for _, i := range before.Left(s, Kept) {
		if i.Kind != descriptor && i.Kind != goroutine {
			diff = append(diff, "lost: "+i.String())
		}
	}
	return diff
}

// Remains fails with what is left of pods and containers, which have all been removed; the daemon, its monitor and its
// network live on.
func (n *Node) Remains() error { return n.left("left of pods and containers", OfPod) }

// Leaks fails with what is on the machine of a node that was taken down.
func (n *Node) Leaks() error { return n.left("left on the machine", OfNode) }

func (n *Node) left(where string, span Span) error {
	now, err := n.Snapshot()
	if err != nil {
		return err
	}
	left := now.Left(n.before, span)
	if len(left) == 0 {
		return nil
	}
	return &LeakError{Where: where, Left: left}
}

// LeakError is what a node left where nothing should be.
type LeakError struct {
	Where string
	Left  []Item
}

// Error lists the items.
func (e *LeakError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d things", e.Where, len(e.Left))
	for _, i := range e.Left {
		b.WriteString("\n  " + i.String())
	}
	return b.String()
}

// Late tells whether err is a leak of nothing but what goes a little later than a call is answered: descriptors and
// goroutines, with the connection they were for.
func Late(err error) bool {
	leak, ok := errors.AsType[*LeakError](err)
	return ok && !slices.ContainsFunc(leak.Left, func(i Item) bool { return i.Kind != descriptor && i.Kind != goroutine })
}
