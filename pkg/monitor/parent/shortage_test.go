// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

// TestShortageOfDescriptors: a monitor that has none left goes on with those it
// has, and with clients that wait once there are more.
func TestShortageOfDescriptors(t *testing.T) {
	n := monitornode.Start(t)
	n.Launch(n.Spec("c", "sleep", "1000"))
	var whole unix.Rlimit
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, nil, &whole); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(n.Descriptors() + 4), Max: whole.Max}
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		n.Raw(t)
	}
	monitornode.Eventually(t, "the shortage", func() bool { return strings.Contains(n.MonitorLog(), "connection not accepted") })
	if got, err := n.Client.List(n.Ctx()); err != nil || len(got) != 1 {
		t.Errorf("list %v, %v", got, err)
	}
	if err := unix.Prlimit(n.PID, unix.RLIMIT_NOFILE, &whole, nil); err != nil {
		t.Fatal(err)
	}
	if h := n.Hello(t); h.PID != n.PID {
		t.Errorf("monitor %d became %d", n.PID, h.PID)
	}
	if said := strings.Count(n.MonitorLog(), "connection not accepted"); said != 1 {
		t.Errorf("it is logged %d times", said)
	}
}
