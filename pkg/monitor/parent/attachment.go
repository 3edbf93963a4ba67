// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"fmt"
	"maps"

	"github.com/cri-shim/cri-shim/pkg/monitor/container"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// attach connects the client to a container's stdio.
func (c *conn) attach(p *wire.Packet) {
	ct, err := c.m.running.Get(p.ID)
	if err != nil {
		c.answer(p, nil, err)
		return
	}
	o := wire.Attach{}
	if p.Attach != nil {
		o = *p.Attach
	}
	number := c.m.counter.Add(1)
	a, kinds, fds, err := ct.Attach(o, c.tellDetached(number))
	if err != nil {
		c.answer(p, nil, fmt.Errorf("attach %s: %w", p.ID, err))
		return
	}
	c.mu.Lock()
	c.attached[number] = a
	c.mu.Unlock()
	c.post(&wire.Packet{Op: p.Op, Req: p.Req, Session: number, FDs: kinds}, fds)
}

// tellDetached announces the end of an attachment.
func (c *conn) tellDetached(number uint64) func(reason string) {
	return func(reason string) { c.post(&wire.Packet{Op: wire.OpDetached, Session: number, Reason: reason}, nil) }
}

// detach ends one attachment of this client, if it is there.
func (c *conn) detach(number uint64, unused bool) {
	c.mu.Lock()
	a := c.attached[number]
	delete(c.attached, number)
	c.mu.Unlock()
	switch {
	case a == nil:
	case unused:
		a.EndUnused()
	default:
		a.End()
	}
}

// attachment is one of this client's, nil when it has ended.
func (c *conn) attachment(number uint64) *container.Attachment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attached[number]
}

// detachStdin says that this client writes no more.
func (c *conn) detachStdin(number uint64) {
	if a := c.attachment(number); a != nil {
		a.EndStdin()
	}
}

// attachments are this client's, by number.
func (c *conn) attachments() map[uint64]*container.Attachment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.attached)
}
