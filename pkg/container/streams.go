// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// streams are the pipes between a command and whoever asked for it. The
// child's ends are closed once it has them; copying ends when the command's
// side does, or when drain bounds it.
type streams struct {
	child   [3]*os.File // stdin, stdout, stderr of the command
	ours    []*os.File
	outputs []*output
	copies  sync.WaitGroup // one per output
	stop    chan struct{}  // closed when the session is over
	once    sync.Once
}

// openStreams makes a pipe for each stream that is asked for and starts
// copying. Terminals come later: the pty is made by the runtime.
func openStreams(e ExecIO) (*streams, error) {
	s := &streams{stop: make(chan struct{})}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open null device: %w", err)
	}
	s.child = [3]*os.File{null, null, null}
	if e.TTY {
		return s, nil
	}
	if e.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			s.close()
			return nil, fmt.Errorf("make stdin: %w", err)
		}
		s.child[0], s.ours = r, append(s.ours, w)
		go func() {
			copyIn(w, e.Stdin)
			w.Close()
		}()
	}
	for i, to := range []io.Writer{e.Stdout, e.Stderr} {
		if to == nil {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			s.close()
			return nil, fmt.Errorf("make output: %w", err)
		}
		s.child[i+1], s.ours = w, append(s.ours, r)
		s.copyOut(&output{from: r, to: to, refills: 1})
	}
	return s, nil
}

// copyIn copies until the caller's stream ends. What a command does not want is
// taken all the same: the caller's connection has more to say than input.
func copyIn(to io.Writer, from io.Reader) {
	if _, err := io.Copy(to, from); err != nil {
		io.Copy(io.Discard, from)
	}
}

func (s *streams) copyOut(o *output) {
	s.outputs = append(s.outputs, o)
	s.copies.Go(func() { o.err = o.copy() })
}

// terminal copies between the caller and the command's pty.
func (s *streams) terminal(console *os.File, e ExecIO) {
	s.ours = append(s.ours, console)
	if e.Stdin != nil {
		go copyIn(console, e.Stdin)
	}
	out := e.Stdout
	if out == nil {
		out = io.Discard
	}
	s.copyOut(&output{from: console, to: out, refills: terminalRefills})
}

// started closes the command's ends, which it has inherited.
func (s *streams) started() {
	closed := map[*os.File]bool{}
	for i, f := range s.child {
		if f != nil && !closed[f] {
			f.Close()
			closed[f] = true
		}
		s.child[i] = nil
	}
}

// drain returns when all output has reached the caller. The command has ended:
// processes that it left behind may hold its streams for as long as they live,
// so they are waited for until limit or ctx's deadline. What is in the streams
// by then is delivered however slowly the caller reads, for as long as ctx
// lasts. The error says that some output did not reach the caller.
func (s *streams) drain(ctx context.Context, limit time.Duration) error {
	s.waitUntil(time.Now().Add(limit))
	copied := make(chan struct{})
	go func() { s.copies.Wait(); close(copied) }()
	select {
	case <-copied:
	case <-ctx.Done():
		if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return fmt.Errorf("deliver output: %w", context.Cause(ctx))
		}
		s.waitUntil(time.Now()) // the command was in time
		<-copied                // a call with a deadline keeps output in memory
	}
	var errs []error
	for _, o := range s.outputs {
		errs = append(errs, o.err)
	}
	return errors.Join(errs...)
}

// waitUntil bounds how long writers are waited for.
func (s *streams) waitUntil(end time.Time) {
	for _, o := range s.outputs {
		_ = o.from.SetReadDeadline(end) // pipes and terminals have deadlines
	}
}

// close ends every copy and frees every descriptor; it may be repeated.
func (s *streams) close() {
	s.once.Do(func() {
		close(s.stop)
		s.started()
		for _, f := range s.ours {
			f.Close()
		}
	})
}

// output is one stream from a command to its caller.
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

// errCut is told to the caller of a command whose output goes on without it.
var errCut = fmt.Errorf("output truncated: the command has ended, but a process that it left running still writes: %w", errdefs.ErrDataLoss)

// copy passes on what comes until the last writer is gone. After the read
// deadline it passes on what is in the stream, and waits for no writer. A caller
// who takes no more does not stop the command: the rest is read and dropped.
func (o *output) copy() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := o.from.Read(buf)
		if _, gone := o.to.Write(buf[:n]); gone != nil {
			io.Copy(io.Discard, o.from)
			return nil // the caller left, and knows
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
