// SPDX-License-Identifier: Apache-2.0

package poll_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/poll"
)

// TestCalls: one for each Arm, none unarmed, none after Stop, and of a hang-up one
// for each change with ArmEdge.
func TestCalls(t *testing.T) {
	p, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.Run() }() // for the life of the test program
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	calls := make(chan uint32, 100)
	r, err := p.Add(pipe[0], func(events uint32) { calls <- events })
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, want uint32) {
		t.Helper()
		select {
		case got := <-calls:
			if got&want == 0 || want == 0 {
				t.Errorf("%s: called with %#x", when, got)
			}
		case <-time.After(map[bool]time.Duration{true: 50 * time.Millisecond, false: 10 * time.Second}[want == 0]):
			if want != 0 {
				t.Errorf("%s: no call", when)
			}
		}
	}
	if _, err := unix.Write(pipe[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	expect("not armed", 0)
	r.Arm(unix.EPOLLIN)
	expect("armed", unix.EPOLLIN)
	expect("served", 0)
	r.Arm(unix.EPOLLIN)
	expect("armed again", unix.EPOLLIN)
	if _, err := unix.Read(pipe[0], make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[1])
	r.ArmEdge(unix.EPOLLIN)
	expect("hung up", unix.EPOLLHUP)
	r.ArmEdge(unix.EPOLLIN)
	expect("nothing new", 0)
	r.Stop()
	r.Stop()
	r.Arm(unix.EPOLLIN)
	expect("stopped", 0)
}
