// SPDX-License-Identifier: Apache-2.0

package monitornode

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// ExitKnownAfterReap reports whether this kernel tells the exit of a reaped
// process that was no child (Linux 6.15).
func ExitKnownAfterReap(t testing.TB) bool {
	t.Helper()
	p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	return unix.IoctlPidfdInfo(fd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
}

// Self is this test program.
func Self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Children counts the monitor's.
func (n *Node) Children() int {
	n.T.Helper()
	found := 0
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		n.T.Fatal(err)
	}
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if st, err := sys.ReadProcStat(pid); err == nil && st.PPID == n.PID {
			found++
		}
	}
	return found
}

// Descriptors counts the monitor's.
func (n *Node) Descriptors() int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.PID))
	if err != nil {
		n.T.Fatal(err)
	}
	return len(entries)
}

// DescriptorsOf counts a process's.
func DescriptorsOf(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Attach connects to a container's input and output until the test ends.
func (n *Node) Attach(id string) *monitor.Attachment {
	n.T.Helper()
	a, err := n.Client.Attach(n.Ctx(), id, monitor.AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		n.T.Fatal(err)
	}
	n.T.Cleanup(func() { a.Close() })
	return a
}
