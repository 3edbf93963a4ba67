// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// MoveLock prepares the kernel's lock that moving a process between cgroups
// takes. Its first holder after a pause of some 10 ms waits for an RCU grace
// period, 7-12 ms; the next ones do not (percpu_rw_semaphore, Linux 4.2 on). A
// runtime gets to that move only several milliseconds after its start, so the
// wait can be over by then.
type MoveLock struct {
	procs string // cgroup.procs of this process's own cgroup
	busy  atomic.Bool
}

// NewMoveLock finds this process's own cgroup. Where there is none to be
// found Warm does nothing.
func NewMoveLock() *MoveLock {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return &MoveLock{}
	}
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		hierarchy, _, _ := strings.Cut(strings.TrimPrefix(parts[1], "name="), ",")
		for _, root := range []string{filepath.Join(sys.CgroupRoot, hierarchy), filepath.Join(sys.CgroupRoot, "unified")} {
			procs := filepath.Join(root, parts[2], "cgroup.procs")
			if _, err := os.Stat(procs); err == nil {
				return &MoveLock{procs: procs}
			}
		}
	}
	return &MoveLock{}
}

// Warm moves this process to where it is, which takes the lock and changes
// nothing. It returns at once; while one is under way another is not begun.
func (l *MoveLock) Warm() {
	if l.procs == "" || !l.busy.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer l.busy.Store(false)
		_ = os.WriteFile(l.procs, []byte("0"), 0) // what fails here is only slower later
	}()
}
