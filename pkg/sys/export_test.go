// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Told reads one record of the kernel's log.
func (v OOMVictim) Told(record []byte) bool { return v.told(record) }

// LiesIn reads /proc/PID/cgroup.
func LiesIn(raw []byte, dirs []string) bool { return liesIn(raw, dirs) }

// AwaitEnd waits for the end of the process pid.
func AwaitEnd(ctx context.Context, pid int) error {
	p, err := openProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	return p.awaitEnd(ctx)
}

// Confirmed finds the processes of dir as a kill does, and tells which it would
// kill. meanwhile runs after a process was found and before it is held.
func Confirmed(dir string, meanwhile func(pid int)) (map[int]bool, error) {
	confirmed := map[int]bool{}
	err := eachMembers(context.Background(), dir, func(pid int) (*process, error) {
		meanwhile(pid)
		return openProcess(pid)
	}, func(held []member[*process]) error {
		for _, m := range held {
			confirmed[m.pid] = m.confirmed
		}
		return nil
	})
	return confirmed, err
}

// LimitPaths is Limited with another limit.
func LimitPaths(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return limited(ctx, limit)
}

// Ask runs look as the calls of HostPaths do theirs.
func (h *HostPaths) Ask(ctx context.Context, path string, look func() error) error {
	return h.ask(ctx, "test", path, look)
}

// DiskUsageWithLinks is DiskUsage that remembers so many files with several links.
func DiskUsageWithLinks(ctx context.Context, path string, links int) (Usage, error) {
	return diskUsage(ctx, path, &measure{knownLinks: links})
}

// WalkWithin is Walk with another limit.
func (h *HostPaths) WalkWithin(ctx context.Context, path string, limit time.Duration, walk func(context.Context) error) error {
	return h.walk(ctx, "test", path, limit, walk)
}
