// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// ExitHandler is what the daemon does with exits.
type ExitHandler struct {
	// Record writes one exit down. It is called in the order of the exits, one
	// call at a time; an exit that it refuses is handed to it again later and
	// holds no other up.
	Record func(context.Context, Exit) error
	// Reconcile compares what should run with what the monitor watches. It is
	// called whenever another monitor instance has taken over, once every exit
	// that this one reported was handed to Record, and again while it fails.
	Reconcile func(context.Context) error
}

// exitList is the way of an exit through the client: one list, in the order of
// the monitor's exit log, which is its durable copy. An exit is in the list from
// its arrival until the monitor knows that it was recorded. The list has no
// bound, so that a slow disk never holds up the answers of the connection.
type exitList struct {
	wake chan struct{} // holds a token when there may be something to do

	mu        sync.Mutex // guards what follows
	epoch     string     // of the exit log that numbers the exits
	last      uint64     // the highest number seen in it
	entries   []*reported
	successor bool                       // another monitor instance has taken over, and the daemon has not reconciled with it yet
	waiters   map[string][]chan struct{} // closed when an exit of that container arrives
}

// reported is an exit of which the monitor does not know yet that it was recorded.
type reported struct {
	Exit
	epoch    string
	recorded bool
	err      error // of the last attempt to record it
}

func newExitList() *exitList {
	return &exitList{wake: make(chan struct{}, 1), waiters: map[string][]chan struct{}{}}
}

// begin names the exit log that the exits from here on are of.
func (l *exitList) begin(epoch string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch != epoch {
		l.epoch, l.last = epoch, 0
	}
}

// connected has those exits acknowledged for which the last connection broke too
// early. successor: this is another instance than the last connection's.
func (l *exitList) connected(successor bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.successor = l.successor || successor
	l.signal()
}

// put adds an exit, unless a connection before this one reported it already.
func (l *exitList) put(e Exit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, arrived := range l.waiters[e.ID] {
		close(arrived)
	}
	delete(l.waiters, e.ID)
	if e.Seq <= l.last {
		return
	}
	l.last = e.Seq
	l.entries = append(l.entries, &reported{Exit: e, epoch: l.epoch})
	l.signal()
}

// signal wakes the reader. The caller holds mu.
func (l *exitList) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// unrecorded returns the exits to record, in order: those that were not tried
// yet, or with again also those that were refused.
func (l *exitList) unrecorded(again bool) []*reported {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*reported
	for _, r := range l.entries {
		if !r.recorded && (again || r.err == nil) {
			out = append(out, r)
		}
	}
	return out
}

// pending lists the containers whose exit is not recorded yet.
func (l *exitList) pending() []string {
	var ids []string
	for _, r := range l.unrecorded(true) {
		ids = append(ids, r.ID)
	}
	return ids
}

// note keeps the outcome of an attempt to record r, and returns the one before.
func (l *exitList) note(r *reported, err error) (before error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, r.err, r.recorded = r.err, err, err == nil
	return before
}

// acknowledgeable returns the number up to which every exit of the present exit
// log is recorded; 0: none is that is not acknowledged.
func (l *exitList) acknowledgeable() (epoch string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.entries {
		if r.epoch != l.epoch {
			continue
		}
		if !r.recorded {
			break
		}
		seq = r.Seq
	}
	return l.epoch, seq
}

// acknowledged drops what was recorded of the exit log up to seq: the monitor
// has forgotten it. So does what was recorded of a log that is no more.
func (l *exitList) acknowledged(epoch string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = slices.DeleteFunc(l.entries, func(r *reported) bool {
		return r.recorded && (r.epoch != epoch || r.Seq <= seq)
	})
}

// await returns a channel that is closed when an exit of the container arrives,
// and what ends the wait.
func (l *exitList) await(id string) (arrived <-chan struct{}, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := make(chan struct{})
	l.waiters[id] = append(l.waiters[id], ch)
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiters[id] = slices.DeleteFunc(l.waiters[id], func(c chan struct{}) bool { return c == ch })
		if len(l.waiters[id]) == 0 {
			delete(l.waiters, id)
		}
	}
}

// takeSuccessor reports, once, that another instance has taken over.
func (l *exitList) takeSuccessor() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.successor
	l.successor = false
	return was
}

// returnSuccessor has takeSuccessor report it again.
func (l *exitList) returnSuccessor() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.successor = true
}

// unfinished reports whether something has to be tried again.
func (l *exitList) unfinished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.successor || slices.ContainsFunc(l.entries, func(r *reported) bool { return !r.recorded })
}

// exitRetry is the pause between attempts to record an exit that was refused:
// there is no event for "the disk works again".
const exitRetry = time.Second

// RunExits hands the exits of containers to h until ctx ends: each once per
// process of the daemon unless h refuses it, and an exit that is not acknowledged
// again in the next process. An exit may come before its Launch has returned.
// Call it once.
func (c *Client) RunExits(ctx context.Context, h ExitHandler) error {
	var retry <-chan time.Time
	for {
		again := false
		select {
		case <-ctx.Done():
			return nil
		case <-c.exits.wake:
		case <-retry:
			retry, again = nil, true
		}
		for _, r := range c.exits.unrecorded(again) {
			c.noteAttempt(r, h.Record(ctx, r.Exit))
		}
		c.acknowledge(ctx)
		c.reconcile(ctx, h)
		if retry == nil && c.exits.unfinished() {
			retry = time.After(exitRetry)
		}
	}
}

// reconcile has the daemon compare its records with a new instance.
func (c *Client) reconcile(ctx context.Context, h ExitHandler) {
	if !c.exits.takeSuccessor() {
		return
	}
	if err := h.Reconcile(ctx); err != nil {
		c.o.Log.Warn("containers not reconciled with the new monitor, trying again", "err", err)
		c.exits.returnSuccessor()
	}
}

// acknowledge lets the monitor forget what is recorded. Acknowledging is
// cumulative, so it goes as far as the first exit that is not.
func (c *Client) acknowledge(ctx context.Context) {
	epoch, seq := c.exits.acknowledgeable()
	if seq > 0 {
		if err := c.do(ctx, &wire.Packet{Op: wire.OpAck, Seq: seq}); err != nil {
			c.o.Log.Debug("exits not acknowledged, the next connection repeats it", "up_to", seq, "err", err)
			return
		}
	}
	c.exits.acknowledged(epoch, seq)
}

// noteAttempt keeps the outcome of an attempt to record an exit.
func (c *Client) noteAttempt(r *reported, err error) {
	before := c.exits.note(r, err)
	switch {
	case before == nil && err != nil: // once, not once a second
		c.o.Log.Error("exit not recorded, trying again", "container", r.ID, "err", err)
	case before != nil && err == nil:
		c.o.Log.Info("exit recorded", "container", r.ID)
	}
}
