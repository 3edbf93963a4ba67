// SPDX-License-Identifier: Apache-2.0

// Package stdio copies between a client and a process in a container, and says
// when output did not reach the client whole.
//
// Invariants:
//   - What a process wrote before it ended is delivered to a client that reads,
//     however slowly, for as long as its context lasts.
//   - Output that is cut is an error of class ErrDataLoss, never a silent end.
//   - What a client sends is taken, also when the process does not want it.
//
// The package starts and ends no process, knows no records, and does not know
// how a client is connected.
package stdio

import (
	"io"
	"slices"
	"sync"
)

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

// Client is the client's side of a session; what is nil was not asked for.
type Client struct {
	TTY    bool // one terminal in place of three streams; Stderr is not used
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Resize <-chan Size
}

// EachSize calls set with each size that the client's terminal gets, until
// there are no more or stop is closed.
func (c Client) EachSize(stop <-chan struct{}, set func(Size)) {
	for {
		select {
		case size, ok := <-c.Resize:
			if !ok {
				return
			}
			set(size)
		case <-stop:
			return
		}
	}
}

// Capture keeps the first Limit bytes written to it and swallows the rest.
type Capture struct {
	Limit int

	mu   sync.Mutex // guards data: a drain may be cut off while a writer is stuck
	data []byte
}

// Write keeps what there is room for, and takes all.
func (c *Capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := min(len(p), c.Limit-len(c.data))
	c.data = append(c.data, p[:keep]...)
	return len(p), nil
}

// Bytes are what was kept so far.
func (c *Capture) Bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.data)
}
