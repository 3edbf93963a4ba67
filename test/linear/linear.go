// SPDX-License-Identifier: Apache-2.0

// Package linear checks that what a parser costs grows no faster than its input. Whoever can choose the input, an image's
// author for one, else chooses how long the daemon computes. Nothing of it is part of the daemon.
package linear

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Growth is how many times the cost of an input may be when the input is twice as large. Sorting, which is a
	// little more than linear, fits in; four times, the mark of a quadratic loop, does not.
	Growth = 2.5

	rounds   = 9
	attempts = 3                     // that must all find growth, each with runs twice as long as the last
	shortest = 10 * time.Millisecond // of processor time; below it the clock and the scheduler count for too much
	slack    = 64 << 10              // bytes that a run may allocate besides, whatever its input
)

// cost of a run: processor time of the process, and bytes allocated.
type cost struct {
	cpu   time.Duration
	bytes uint64
}

// Check fails the test if the function that prepare makes for 2n costs more than Growth times that for n, in processor
// time or in allocated bytes; in the latter alone where Timed is false. The functions are called many times. The cheapest of several runs counts, the two sizes
// by turns, so that a busy machine does not fail it. Tests that call it must not be parallel, and n should be thousands
// of elements: of fewer the processor learns the branches by heart, and the larger input then looks dearer than it is.
func Check(t testing.TB, n int, prepare func(n int) func()) {
	t.Helper()
	small, large := prepare(n), prepare(2*n)
	small()
	large() // what is made at the first use is made now
	repeat := calibrate(small)
	for range attempts - 1 {
		if compare(small, large, repeat).grown(repeat) == "" {
			return
		}
		repeat *= 2 // a run that was disturbed must not fail the test: growth is there whenever one looks
	}
	if found := compare(small, large, repeat).grown(repeat); found != "" {
		t.Errorf("%d to %d: %s: more than %v times", n, 2*n, found, Growth)
	}
}

// costs are the cheapest runs seen of the smaller and of the larger input.
type costs struct{ small, large cost }

func compare(small, large func(), repeat int) costs {
	best := costs{measure(small, repeat), measure(large, repeat)}
	if !Timed { // what is allocated is the same each time
		return best
	}
	for range rounds {
		best.small = cheaper(best.small, measure(small, repeat))
		best.large = cheaper(best.large, measure(large, repeat))
	}
	return best
}

// grown says what grew faster than the input, "" if nothing did.
func (c costs) grown(repeat int) string {
	if limit := time.Duration(Growth * float64(c.small.cpu)); Timed && c.large.cpu > limit {
		return fmt.Sprintf("%s of processor time became %s", c.small.cpu, c.large.cpu)
	}
	if limit := uint64(Growth*float64(c.small.bytes)) + slack*uint64(repeat); c.large.bytes > limit {
		return fmt.Sprintf("%d allocated bytes became %d", c.small.bytes, c.large.bytes)
	}
	return ""
}

// calibrate says how often f has to run to be measured well. One slow run must not make it believe that few are enough.
func calibrate(f func()) int {
	for repeat := 1; Timed; repeat *= 2 {
		best := measure(f, repeat).cpu
		for range 2 {
			best = min(best, measure(f, repeat).cpu)
		}
		if best >= shortest || repeat >= 1<<20 {
			return repeat
		}
	}
	return 1
}

// measure runs f with the garbage collector off, which would otherwise add its time to one run and not to the other.
func measure(f func(), repeat int) cost {
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := processorTime()
	for range repeat {
		f()
	}
	took := processorTime() - start
	runtime.ReadMemStats(&after)
	return cost{took, after.TotalAlloc - before.TotalAlloc}
}

func processorTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic(err) // the clock is there since Linux 2.6.12
	}
	return time.Duration(ts.Nano())
}

func cheaper(a, b cost) cost { return cost{min(a.cpu, b.cpu), min(a.bytes, b.bytes)} }
