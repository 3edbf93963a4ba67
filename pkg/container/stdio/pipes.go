// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Pipes are between a command and its client. The command's ends are closed
// once it has them; copying ends when the command's side does, or when Drain
// bounds it.
type Pipes struct {
	Child [3]*os.File // stdin, stdout, stderr of the command

	ours    []*os.File
	outputs []*output
	copies  sync.WaitGroup // one per output
	stop    chan struct{}  // closed when the session is over
	once    sync.Once
}

// Open makes a pipe for each stream of c and starts copying. With a terminal
// there are none: the runtime makes the pty, which Terminal takes.
func Open(c Client) (*Pipes, error) {
	p := &Pipes{stop: make(chan struct{})}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open null device: %w", err)
	}
	p.Child = [3]*os.File{null, null, null}
	if c.TTY {
		return p, nil
	}
	if c.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("make stdin: %w", err)
		}
		p.Child[0], p.ours = r, append(p.ours, w)
		go Feed(w, c.Stdin)
	}
	for i, to := range []io.Writer{c.Stdout, c.Stderr} {
		if to == nil {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("make output: %w", err)
		}
		p.Child[i+1], p.ours = w, append(p.ours, r)
		p.copyOut(&output{from: r, to: to, refills: 1})
	}
	return p, nil
}

// Feed copies from the client until its stream ends, and closes to. It returns
// no error: the process's own end tells.
func Feed(to io.WriteCloser, from io.Reader) {
	copyIn(to, from)
	to.Close()
}

// copyIn copies until the client's stream ends. What a command does not want is
// taken all the same: the client's connection has more to say than input.
func copyIn(to io.Writer, from io.Reader) {
	if _, err := io.Copy(to, from); err != nil {
		io.Copy(io.Discard, from)
	}
}

func (p *Pipes) copyOut(o *output) {
	p.outputs = append(p.outputs, o)
	p.copies.Go(func() { o.err = o.copy() })
}

// Terminal copies between the client and the command's pty, and sets its sizes.
func (p *Pipes) Terminal(console *os.File, c Client) {
	p.ours = append(p.ours, console)
	if c.Stdin != nil {
		go copyIn(console, c.Stdin)
	}
	out := c.Stdout
	if out == nil {
		out = io.Discard
	}
	p.copyOut(&output{from: console, to: out, refills: terminalRefills})
	go c.EachSize(p.stop, func(size Size) {
		_ = sys.ResizeTerminal(console, size.Width, size.Height) // a terminal that is gone needs no size
	})
}

// Started closes the command's ends, which it has inherited.
func (p *Pipes) Started() {
	closed := map[*os.File]bool{}
	for i, f := range p.Child {
		if f != nil && !closed[f] {
			f.Close()
			closed[f] = true
		}
		p.Child[i] = nil
	}
}

// Drain returns when all output has reached the client. The command has ended:
// processes that it left behind may hold its streams for as long as they live,
// so they are waited for until limit or ctx's deadline. What is in the streams
// by then is delivered however slowly the client reads, for as long as ctx
// lasts. The error says that some output did not reach the client.
func (p *Pipes) Drain(ctx context.Context, limit time.Duration) error {
	p.waitUntil(time.Now().Add(limit))
	copied := make(chan struct{})
	go func() { p.copies.Wait(); close(copied) }()
	select {
	case <-copied:
	case <-ctx.Done():
		if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return fmt.Errorf("deliver output: %w", context.Cause(ctx))
		}
		p.waitUntil(time.Now()) // the command was in time
		<-copied                // a call with a deadline keeps output in memory
	}
	var errs []error
	for _, o := range p.outputs {
		errs = append(errs, o.err)
	}
	return errors.Join(errs...)
}

// waitUntil bounds how long writers are waited for.
func (p *Pipes) waitUntil(end time.Time) {
	for _, o := range p.outputs {
		_ = o.from.SetReadDeadline(end) // pipes and terminals have deadlines
	}
}

// Close ends every copy and frees every descriptor; it may be repeated.
func (p *Pipes) Close() {
	p.once.Do(func() {
		close(p.stop)
		p.Started()
		for _, f := range p.ours {
			f.Close()
		}
	})
}
