// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// copies are the second copies of a container's descriptors: the pipes keep their
// content and the terminal its other end while no monitor lives, and the pidfd
// knows the exit of a process that ended then.
type copies struct {
	fds      map[wire.FDKind]int
	attached map[*Attachment]struct{} // with stdin
}

func (k *copies) close() {
	for kind, fd := range k.fds {
		unix.Close(fd)
		delete(k.fds, kind)
	}
}

// hold takes over a container's descriptors; copies it has already are closed.
func (c *Client) hold(id string, kinds []wire.FDKind, fds []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.copies[id]
	if k == nil {
		k = &copies{fds: map[wire.FDKind]int{}, attached: map[*Attachment]struct{}{}}
		c.copies[id] = k
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
	if k := c.copies[id]; k != nil {
		k.close()
		delete(c.copies, id)
	}
}

// dropStdin closes every write end of the container's stdin in this process:
// with the monitor's gone too the container reads its end.
func (c *Client) dropStdin(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.copies[id]
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
	for id, k := range c.copies {
		k.close()
		delete(c.copies, id)
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
			c.hold(x.ID, x.FDs[:n], fds[:n])
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
	for id, k := range c.copies {
		if !listed[id] { // ended: its exit is in the exit log, or will never be known
			k.close()
			delete(c.copies, id)
		}
	}
	return nil
}

// status is the container's wait status, nil when it is not known.
func (k *copies) status() *int {
	fd, ok := k.fds[wire.Pidfd]
	if !ok {
		return nil
	}
	status, known := sys.PidfdStatus(fd)
	if !known {
		return nil
	}
	n := int(status)
	return &n
}

// handOver gives a new monitor what this client kept of one container.
func (c *Client) handOver(ctx context.Context, l *link, id string) error {
	p := &wire.Packet{Op: wire.OpAdopt, ID: id}
	var fds []int
	defer func() { wire.CloseFDs(fds) }()
	c.mu.Lock()
	if k := c.copies[id]; k != nil {
		for kind, fd := range k.fds {
			if dup, err := sys.Duplicate(fd); err == nil {
				p.FDs, fds = append(p.FDs, kind), append(fds, dup)
			}
		}
		p.Status = k.status()
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
