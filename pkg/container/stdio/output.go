// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// output is one stream from a command to its client.
type output struct {
	from    *os.File
	to      io.Writer
	refills int   // times that the kernel may show more of what was written long ago
	err     error // valid once the copy has ended
}

// A terminal's reader sees a part of what was written to it at a time, 4 KiB of
// at most 64 KiB, and the kernel moves the next part there on its own, within
// refillTime.
const (
	terminalRefills = 64
	refillTime      = 20 * time.Millisecond
)

// errCut is told to the client of a command whose output goes on without it.
var errCut = fmt.Errorf("output truncated: the command has ended, but a process that it left running still writes: %w", errdefs.ErrDataLoss)

// copy passes on what comes until the last writer is gone. After the read
// deadline it passes on what is in the stream, and waits for no writer. A client
// that takes no more does not stop the command: the rest is read and dropped.
func (o *output) copy() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := o.from.Read(buf)
		if _, gone := o.to.Write(buf[:n]); gone != nil {
			io.Copy(io.Discard, o.from)
			return nil // the client left, and knows
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return o.rest(buf)
		}
		if err != nil {
			return nil // end of file, or EIO from a terminal without users
		}
	}
}

// rest passes on what is in the stream now. More than that is somebody's who
// writes on: the error says so.
func (o *output) rest(buf []byte) error {
	for range o.refills {
		due, err := o.buffered()
		if err != nil {
			return err
		}
		if due == 0 {
			break
		}
		for due > 0 {
			_ = o.from.SetReadDeadline(time.Time{}) // it is there: nothing to wait for
			n, err := o.from.Read(buf[:min(len(buf), due)])
			if err != nil {
				return nil
			}
			if _, gone := o.to.Write(buf[:n]); gone != nil {
				return nil
			}
			due -= n
		}
	}
	// A writer that waited for room has it now, and is about to use it.
	if err := sys.AwaitReadable(o.from, refillTime); err != nil {
		return err
	}
	if more, err := sys.Buffered(o.from); err != nil || more > 0 {
		return errors.Join(errCut, err)
	}
	return nil
}

// buffered is how many bytes can be read at once. For a terminal it waits for
// what the kernel is about to move.
func (o *output) buffered() (int, error) {
	due, err := sys.Buffered(o.from)
	if due > 0 || err != nil || o.refills == 1 {
		return due, err
	}
	if err := sys.AwaitReadable(o.from, refillTime); err != nil {
		return 0, err
	}
	return sys.Buffered(o.from)
}
