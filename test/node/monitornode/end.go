// SPDX-License-Identifier: Apache-2.0

package monitornode

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// end kills what runs. The client goes before the monitor: it would start
// another one.
func (n *Node) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if n.Client == nil {
		return
	}
	if left, err := n.Client.List(ctx); err == nil {
		for _, r := range left {
			_ = n.Client.Signal(ctx, r.ID, 9)
		}
	}
	n.Stop()
	defer n.killLaunched()
	if n.PID = n.MonitorPID(); n.PID != 0 {
		if n.T.Failed() {
			_ = unix.Kill(n.PID, unix.SIGABRT) // its log says then what it was at
			time.Sleep(200 * time.Millisecond)
		}
		n.KillMonitor()
	}
}

// killLaunched kills what the monitor did not watch any more at the end, with
// what it started.
func (n *Node) killLaunched() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.launched {
		if st, err := sys.ReadProcStat(l.Pid); err == nil && st.StartTime == l.StartTime {
			_ = unix.Kill(-l.Pid, unix.SIGKILL)
			_ = unix.Kill(l.Pid, unix.SIGKILL)
		}
	}
}
