// SPDX-License-Identifier: Apache-2.0

package monitor

import "slices"

// Sessions counts what a client's connection remembers of sessions.
func Sessions(c *Client) int {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// Acknowledged reports whether the monitor knows that the exit was recorded.
func Acknowledged(c *Client, seq uint64) bool {
	c.exits.mu.Lock()
	defer c.exits.mu.Unlock()
	return !slices.ContainsFunc(c.exits.entries, func(r *reported) bool { return r.Seq == seq })
}
