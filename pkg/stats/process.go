// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// processes is what only a walk through a container's processes tells; for metrics.
type processes struct {
	count, fds, sockets uint64
	openFiles           *uint64 // soft limit of the first process
}

func (s *Service) processes(ctx context.Context, r *reader, d dirs, pid int) *processes {
	if pid <= 0 || d.path == "" {
		return nil
	}
	dir := d.unified
	if !s.v2 {
		dir = d.v1("pids")
	}
	var p processes
	_ = cgroup.Procs(ctx, dir, func(pid int) { // with an error, what was counted until then
		p.count++
		if fds, sockets, err := sys.OpenFiles(pid); err == nil { // else it has ended since
			p.fds += fds
			p.sockets += sockets
		}
	})
	p.openFiles = r.softLimit(pid, "Max open files")
	return &p
}

// softLimit reads a line such as "Max open files            1024                 524288               files".
func (r *reader) softLimit(pid int, name string) *uint64 {
	for line := range bytes.Lines(r.file(fmt.Sprintf("/proc/%d", pid), "limits")) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		f := bytes.Fields(rest)
		if !ok || len(f) < 2 {
			continue
		}
		v := uint64(math.MaxUint64)
		if string(f[0]) != "unlimited" {
			var err error
			if v, err = strconv.ParseUint(string(f[0]), 10, 64); err != nil {
				return nil
			}
		}
		return &v
	}
	return nil
}
