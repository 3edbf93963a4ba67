// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// kept are the second copies of a container's descriptors: the pipes keep their
// content and the terminal its other end while no monitor lives, and the pidfd
// knows the exit of a process that ended then.
type kept struct {
	fds      map[wire.FDKind]int
	attached map[*Attachment]struct{} // with stdin
}

func (k *kept) close() {
	for kind, fd := range k.fds {
		unix.Close(fd)
		delete(k.fds, kind)
	}
}

// keep takes over a container's descriptors; copies it has already are closed.
func (c *Client) keep(id string, kinds []wire.FDKind, fds []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kept[id]
	if k == nil {
		k = &kept{fds: map[wire.FDKind]int{}, attached: map[*Attachment]struct{}{}}
		c.kept[id] = k
	}
	for i, kind := range kinds {
		if _, have := k.fds[kind]; have {
			unix.Close(fds[i])
			continue
		}
		k.fds[kind] = fds[i]
	}
}

// drop closes what is kept of a container that has ended.
func (c *Client) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kept[id]; k != nil {
		k.close()
		delete(c.kept, id)
	}
}

// dropStdin closes every write end of the container's stdin in this process:
// with the monitor's gone too the container reads its end.
func (c *Client) dropStdin(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kept[id]
	if k == nil {
		return
	}
	if fd, ok := k.fds[wire.Stdin]; ok {
		unix.Close(fd)
		delete(k.fds, wire.Stdin)
	}
	for a := range k.attached {
		a.stdin.file.Close()
	}
}

func (c *Client) releaseAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, k := range c.kept {
		k.close()
		delete(c.kept, id)
	}
}

// adopt goes through what the monitor watches: orphans get what is kept of
// them, and what is not kept yet is from now on.
func (c *Client) adopt(ctx context.Context, l *link) error {
	listed := map[string]bool{}
	for next := ""; ; {
		r, fds, err := l.call(ctx, &wire.Packet{Op: wire.OpList, WantFDs: true, Next: next}, nil)
		if err != nil {
			return err
		}
		for _, x := range r.Running {
			listed[x.ID] = true
			n := min(len(x.FDs), len(fds))
			if x.Orphan {
				err = c.handOver(ctx, l, x.ID)
			}
			c.keep(x.ID, x.FDs[:n], fds[:n])
			fds = fds[n:]
			if err != nil {
				wire.CloseFDs(fds)
				return err
			}
		}
		wire.CloseFDs(fds)
		if next = r.Next; next == "" {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, k := range c.kept {
		if !listed[id] { // ended: its exit is on record, or nobody will ever know
			k.close()
			delete(c.kept, id)
		}
	}
	return nil
}

// handOver gives a new monitor what this client kept of one container.
func (c *Client) handOver(ctx context.Context, l *link, id string) error {
	p := &wire.Packet{Op: wire.OpAdopt, ID: id}
	var fds []int
	defer func() { wire.CloseFDs(fds) }()
	c.mu.Lock()
	if k := c.kept[id]; k != nil {
		for kind, fd := range k.fds {
			if dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				p.FDs, fds = append(p.FDs, kind), append(fds, dup)
			}
		}
		if fd, ok := k.fds[wire.Pidfd]; ok {
			if status, known := sys.PidfdStatus(fd); known {
				n := int(status)
				p.Status = &n
			}
		}
	}
	c.mu.Unlock()
	if len(p.FDs) == 0 {
		return nil
	}
	_, got, err := l.call(ctx, p, fds)
	wire.CloseFDs(got)
	if wire.IsNotFound(err) {
		return nil // it ended meanwhile
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return nil
}

func killPidfd(fd int) error { return sys.PidfdSignal(fd, sys.SIGKILL) }
