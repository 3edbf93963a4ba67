// SPDX-License-Identifier: Apache-2.0

// Package linear checks that what a parser costs grows no faster than its input. Whoever can choose the input, an image's
// author for one, else chooses how long the daemon computes. Nothing of it is part of the daemon.
package linear

import (
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
	shortest = 10 * time.Millisecond // of processor time; below it the clock and the scheduler count for too much
	slack    = 64 << 10              // bytes that a run may allocate besides, whatever its input
)

// cost of a run: processor time of the process, and bytes allocated.
type cost struct {
	cpu   time.Duration
	bytes uint64
}

// Check fails the test if the function that prepare makes for 2n costs more than Growth times that for n, in processor
// time or in allocated bytes. The functions are called many times. The cheapest of several runs counts, the two sizes
// by turns, so that a busy machine does not fail it. Tests that call it must not be parallel, and n should be thousands
// of elements: of fewer the processor learns the branches by heart, and the larger input then looks dearer than it is.
func Check(t testing.TB, n int, prepare func(n int) func()) {
	t.Helper()
	small, large := prepare(n), prepare(2*n)
	small()
	large() // what is made at the first use is made now
	repeat := calibrate(small)
	best := [2]cost{measure(small, repeat), measure(large, repeat)}
	for range rounds {
		best[0] = cheaper(best[0], measure(small, repeat))
		best[1] = cheaper(best[1], measure(large, repeat))
	}
	if limit := time.Duration(Growth * float64(best[0].cpu)); best[1].cpu > limit {
		t.Errorf("%d takes %s of processor time, %d takes %s: more than %v times", n, best[0].cpu, 2*n, best[1].cpu, Growth)
	}
	if limit := uint64(Growth*float64(best[0].bytes)) + slack*uint64(repeat); best[1].bytes > limit {
		t.Errorf("%d allocates %d bytes, %d allocates %d: more than %v times", n, best[0].bytes, 2*n, best[1].bytes, Growth)
	}
}

// calibrate says how often f has to run to be measured well.
func calibrate(f func()) int {
	for repeat := 1; ; repeat *= 2 {
		if measure(f, repeat).cpu >= shortest || repeat >= 1<<20 {
			return repeat
		}
	}
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
