// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

const stderrTail = 4 << 10 // bytes of a failed program's stderr that are given back

// makePipes makes the named pipes this container needs.
func (c *Container) makePipes() error {
	for _, name := range c.pipeNames() {
		if err := sys.MakeFIFO(filepath.Join(c.dir, name), c.rec.UID, c.rec.GID); err != nil {
			return err
		}
		if err := sys.Label(filepath.Join(c.dir, name), c.rec.Label); err != nil {
			return err
		}
	}
	return nil
}

func (c *Container) pipeNames() []string {
	if !c.rec.Stdio || c.rec.Terminal {
		return nil
	}
	if c.rec.Stdin {
		return []string{"stdout", "stderr", "stdin"}
	}
	return []string{"stdout", "stderr"}
}

// openPipes opens our ends. The container's must be open by then, or be known
// to have been. mu guards what it sets: a client may ask for the descriptors of
// a container while that is being launched.
func (c *Container) openPipes() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.pipeNames() {
		if name == "stdin" {
			continue
		}
		fd, err := sys.OpenFIFO(filepath.Join(c.dir, name), unix.O_RDONLY, false)
		if err != nil {
			return err
		}
		c.out.Add(fd, name, false)
	}
	if c.rec.Stdin && !c.rec.Terminal && c.rec.Stdio && !c.rec.StdinShut {
		fd, err := sys.OpenFIFO(filepath.Join(c.dir, "stdin"), unix.O_WRONLY, false)
		if err != nil && !errors.Is(err, unix.ENXIO) { // the container may have closed its end
			return err
		}
		c.stdin = fd
	}
	return nil
}

// setTTY takes over the pty master: it is stdin and stdout at once. The caller
// holds mu.
func (c *Container) setTTY(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("set terminal non-blocking: %w", err)
	}
	// The stream owns fd; writers and the resizer use a number of their own.
	second, err := sys.Duplicate(fd)
	if err != nil {
		return fmt.Errorf("take terminal: %w", err)
	}
	c.tty = second
	c.out.Add(fd, "stdout", true)
	return nil
}

// stdio is the container's side of its stdio, while the program starts.
type stdio struct {
	files   [3]int
	console *child.Console
	own     []int // to close
	errPipe int   // read end of the program's own stderr, with a terminal; else -1
}

func (s *stdio) close() {
	wire.CloseFDs(s.own)
	if s.errPipe >= 0 {
		unix.Close(s.errPipe)
	}
	if s.console != nil {
		s.console.Close()
	}
}

// openStdio opens the container's ends: stdout and stderr for reading and
// writing, so that a pipe without a reader makes the writer wait and never
// fail; stdin for reading only, so that the last writer's close is its end.
func (c *Container) openStdio() (_ *stdio, err error) {
	s := &stdio{errPipe: -1}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	s.own = append(s.own, null)
	s.files = [3]int{null, null, null}
	switch {
	case !c.rec.Stdio:
		return s, nil
	case c.rec.Terminal:
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return nil, fmt.Errorf("make stderr pipe: %w", err)
		}
		s.errPipe, s.files[2] = pipe[0], pipe[1]
		s.own = append(s.own, pipe[1])
		s.console, err = c.set.Consoles.New()
		return s, err
	}
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		flags := unix.O_RDWR
		if name == "stdin" {
			if !c.rec.Stdin {
				continue
			}
			flags = unix.O_RDONLY
		}
		fd, err := sys.OpenFIFO(filepath.Join(c.dir, name), flags, true)
		if err != nil {
			return nil, err
		}
		s.own = append(s.own, fd)
		s.files[i] = fd
	}
	return s, nil
}

// errorText is the end of what the failed program wrote to stderr.
func (c *Container) errorText(s *stdio) string {
	fd := s.errPipe
	if fd >= 0 {
		_ = unix.SetNonblock(fd, true)
	}
	for _, st := range c.out.Streams() {
		if st.Name() != "stderr" {
			continue
		}
		own, err := st.DuplicateSource()
		if err != nil {
			return ""
		}
		defer unix.Close(own)
		fd = own
	}
	if fd < 0 {
		return ""
	}
	text, chunk := []byte(nil), make([]byte, stderrTail)
	for {
		n, err := unix.Read(fd, chunk)
		if n <= 0 || err != nil {
			return strings.ToValidUTF8(strings.TrimSpace(string(text)), "?")
		}
		text = append(text, chunk[:n]...)
		text = text[max(0, len(text)-stderrTail):]
	}
}
