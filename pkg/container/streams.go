// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// streams are the pipes between a command and whoever asked for it. The
// child's ends are closed once it has them; copying ends when the command's
// side does, or when drain gives up.
type streams struct {
	child  [3]*os.File // stdin, stdout, stderr of the command
	ours   []*os.File
	output sync.WaitGroup // copies from the command to the caller
	stop   chan struct{}  // closed when the session is over
	once   sync.Once
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
			io.Copy(w, e.Stdin) // ends with the caller's stream or the command's pipe
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
		s.copyOut(to, r)
	}
	return s, nil
}

func (s *streams) copyOut(to io.Writer, from *os.File) {
	s.output.Go(func() {
		if _, err := io.Copy(to, from); err != nil && !errors.Is(err, os.ErrClosed) {
			io.Copy(io.Discard, from) // the caller is gone: the command must not block
		}
	})
}

// terminal copies between the caller and the command's pty.
func (s *streams) terminal(console *os.File, e ExecIO) {
	s.ours = append(s.ours, console)
	if e.Stdin != nil {
		go func() { io.Copy(console, e.Stdin) }() // ends with the caller's stream or the pty
	}
	out := e.Stdout
	if out == nil {
		out = io.Discard
	}
	s.copyOut(out, console)
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

// drain waits for the rest of the output, but not longer than limit.
func (s *streams) drain(limit time.Duration) {
	done := make(chan struct{})
	go func() { s.output.Wait(); close(done) }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
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
