// SPDX-License-Identifier: Apache-2.0

package sys

import "runtime"

// OffFirstThread does work on other threads than the process's first one, which
// does nothing until work returns. main calls it before anything else: its
// goroutine begins on the first thread.
//
// The kernel gives a signal for the process to the first thread unless that one
// blocks it (complete_signal in kernel/signal.c), and to no other afterwards. In
// an uninterruptible sleep, as in a write to a file system that does not answer,
// the thread does not take it: SIGCHLD and SIGTERM would wait as long.
func OffFirstThread(work func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	done := make(chan error, 1)
	go func() { done <- work() }()
	return <-done
}
