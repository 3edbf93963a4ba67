// SPDX-License-Identifier: Apache-2.0

// Package leak runs a package's tests and then looks for goroutines and
// descriptors that they left.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what ends by itself may take: a keep-alive, a poll.
const patience = 15 * time.Second

// Run runs the tests and returns their exit code: 1 also when they left
// goroutines, or descriptors. In stacks of goroutines that may stay, one of
// allowed occurs.
func Run(m *testing.M, allowed ...string) int {
	before := descriptors()
	code := m.Run()
	if code != 0 {
		return code // a test that failed may have left anything
	}
	var left []string
	for until := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		left = append(goroutines(allowed), opened(before)...)
		if len(left) == 0 {
			return 0
		}
		if time.Now().After(until) {
			break
		}
	}
	fmt.Fprintf(os.Stderr, "the tests left %d things:\n%s\n", len(left), strings.Join(left, "\n\n"))
	return 1
}

// goroutines are the stacks of all but this one and those that may stay.
func goroutines(allowed []string) []string {
	all := make([]byte, 4<<20)
	all = all[:runtime.Stack(all, true)]
	var left []string
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if !strings.Contains(stack, "leak.goroutines") && !contains(stack, append(allowed, "os/signal.signal_recv", "os/signal.loop")) {
			left = append(left, stack)
		}
	}
	return left
}

func contains(stack string, some []string) bool {
	for _, s := range some {
		if strings.Contains(stack, s) {
			return true
		}
	}
	return false
}

// descriptors are this process's, and what each is.
func descriptors() map[string]string {
	found := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			found[e.Name()] = target
		}
	}
	return found
}

// opened are the descriptors that were not there before, but for what the Go
// runtime keeps.
func opened(before map[string]string) []string {
	var left []string
	for fd, target := range descriptors() {
		own := strings.Contains(target, "[eventpoll]") || strings.Contains(target, "[eventfd]")
		if before[fd] == "" && !own {
			left = append(left, "descriptor "+fd+": "+target)
		}
	}
	return left
}
