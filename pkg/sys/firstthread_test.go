// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFirstThreadDoesNothing: however many goroutines block their threads, none
// of them is on the first one.
func TestFirstThreadDoesNothing(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_FIRST_THREAD=1", "GORACE=atexit_sleep_ms=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// blockThreads blocks many threads at once, and fails if the first is among them.
func blockThreads() error {
	const threads = 32
	var at [threads]int
	var all, done sync.WaitGroup
	all.Add(threads)
	for i := range threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			at[i] = unix.Gettid()
			all.Done()
			all.Wait() // each on a thread of its own
		})
	}
	done.Wait()
	for _, tid := range at {
		if tid == unix.Getpid() {
			return fmt.Errorf("a goroutine ran on the first thread of %d", tid)
		}
	}
	return nil
}
