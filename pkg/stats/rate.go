// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"runtime"
	"sync"
	"time"
)

const (
	rateWindow = time.Second      // two readings closer than this give no honest rate
	rateKept   = 10 * time.Minute // an object that no request named for so long is gone, or starts from zero
)

// rates keeps the last CPU reading of each object. The zero value is ready.
type rates struct {
	mu      sync.Mutex // guards the rest
	last    map[string]reading
	pruneAt int // size at which readings of objects gone are looked for
}

type reading struct {
	usage uint64 // ns
	at    time.Time
	rate  uint64 // ns per second, over the window that ended at at
	known bool
}

// next takes a reading and returns the rate since the one before. The one before the first is the object's birth, when
// it had used nothing, unless that is long ago (or not known: the zero time). Readings in quick succession, by several
// clients, get the rate of the window before them.
//
// A birth may be on record from an earlier daemon, and the clock have been set since: one that is yet to come, or that
// makes a rate no machine has, is not known either.
func (r *rates) next(id string, usage uint64, born, now time.Time) (nanoCores uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	prev, seen := r.last[id]
	if !seen || usage < prev.usage || now.Sub(prev.at) > rateKept {
		prev, seen = reading{at: born}, false
	}
	window := now.Sub(prev.at)
	if seen && window < rateWindow {
		return prev.rate, prev.known
	}
	rate := uint64(float64(usage-prev.usage) / window.Seconds())
	if !seen && (window <= 0 || window > rateKept || rate > most()) { // a mean over days would not be what is going on now
		r.keepLocked(id, reading{usage: usage, at: now}, now)
		return 0, false
	}
	r.keepLocked(id, reading{usage: usage, at: now, rate: rate, known: true}, now)
	return rate, true
}

// most is what all processors together can use.
func most() uint64 { return uint64(runtime.NumCPU()) * uint64(time.Second) }

func (r *rates) keepLocked(id string, v reading, now time.Time) {
	if r.last == nil {
		r.last, r.pruneAt = map[string]reading{}, 512
	}
	if r.last[id] = v; len(r.last) < r.pruneAt {
		return
	}
	for k, old := range r.last {
		if now.Sub(old.at) > rateKept {
			delete(r.last, k)
		}
	}
	r.pruneAt = max(512, 2*len(r.last))
}
