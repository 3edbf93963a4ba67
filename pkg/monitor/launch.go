// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// logPatience is how long the opening of a log, and the last output of a
// container, may take.
const logPatience = 5 * time.Second

const stderrTail = 4 << 10 // bytes of a failed program's stderr that are given back

// launch starts a container. Its directory and record come first, so that a
// monitor that dies in here leaves a successor enough to go on from.
func (m *Monitor) launch(ctx context.Context, l *Launch) (*container, error) {
	if err := validID(l.ID); err != nil {
		return nil, err
	}
	c := m.newContainer(l)
	ctx, c.cut = context.WithCancel(ctx)
	defer c.cut()
	if err := m.enter(c); err != nil {
		c.out.close()
		return nil, err
	}
	defer close(c.launched)
	defer m.reap.begin()()
	if err := c.launch(ctx, l); err != nil {
		c.discard() // before leave: from then on the id, and with it the directory, may be another launch's
		m.leave(c)
		return nil, fmt.Errorf("launch %s: %w", l.ID, err)
	}
	return c, nil
}

// awaitLaunches returns when the launches that are under way, of one container
// or with id "" of all, are over, or ctx is.
func (m *Monitor) awaitLaunches(ctx context.Context, id string) {
	m.mu.Lock()
	var launches []chan struct{}
	for _, c := range m.containers {
		if c.launched != nil && (id == "" || c.rec.ID == id) {
			launches = append(launches, c.launched)
		}
	}
	m.mu.Unlock()
	for _, launched := range launches {
		select {
		case <-launched:
		case <-ctx.Done():
			return
		}
	}
}

// underWay tells whether the container's launch is not over yet.
func (c *container) underWay() bool {
	if c.launched == nil {
		return false
	}
	select {
	case <-c.launched:
		return false
	default:
		return true
	}
}

// kill answers a SIGKILL for a container that is only being launched, once that
// is over: the program that launches it is killed. What had begun to run by
// then is killed like any other container.
func (c *conn) kill(ctx context.Context, ct *container, p *packet) {
	ct.cut()
	select {
	case <-ct.launched:
	case <-ctx.Done():
	}
	ct, err := c.m.container(p.ID)
	if err == nil {
		err = ct.serve(p)
	}
	c.answer(p, nil, err)
}

func validID(id string) error {
	if id == "" || len(id) > maxID || strings.ContainsAny(id, "/\x00") || strings.HasPrefix(id, ".") {
		return invalidArgument{fmt.Errorf("container id %q is not usable as a name", id)}
	}
	return nil
}

// launch does the work: prepare, run the program, take over what it started.
func (c *container) launch(ctx context.Context, l *Launch) error {
	if l.PidFile == "" {
		return invalidArgument{errors.New("no pid file")}
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make container directory: %w", err)
	}
	// Before the record is there: the next monitor takes a pid file beside a record for this launch's.
	if err := os.Remove(l.PidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pid file of an earlier launch: %w", err)
	}
	if err := errors.Join(c.makePipes(), c.save(), c.openLog(ctx)); err != nil {
		return err
	}
	stdio, err := c.openStdio()
	if err != nil {
		return err
	}
	defer stdio.close()
	if err := c.openPipes(); err != nil {
		return err
	}
	p := &program{argv: l.Argv, env: l.Env, dir: l.Dir, pidFile: l.PidFile, files: stdio.files}
	if stdio.console != nil {
		p.argv = stdio.console.fill(l.Argv)
	}
	started, err := c.m.run(ctx, p)
	if err != nil {
		if failed, ok := errors.AsType[*LaunchError](err); ok && failed.Stderr == "" {
			failed.Stderr = c.errorText(stdio)
		}
		return err
	}
	if stdio.console != nil {
		master, err := stdio.console.receive()
		if err != nil {
			c.m.end(started)
			return err
		}
		if err := c.setTTY(master); err != nil {
			unix.Close(master)
			c.m.end(started)
			return err
		}
	}
	return c.takeOver(started)
}

// openLog waits for the log's file system no longer than logPatience.
func (c *container) openLog(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, logPatience, fmt.Errorf("no answer for %s, does its file system hang?", logPatience))
	defer cancel()
	var err error
	select {
	case <-c.out.begin(func() { err = c.out.log.open() }):
		return err
	case <-ctx.Done():
		return unavailable{fmt.Errorf("open log %s: %w", c.rec.LogPath, context.Cause(ctx))}
	}
}

// takeOver begins to parent the started process: from here on its exit is on
// record whatever happens.
func (c *container) takeOver(started child) error {
	c.mu.Lock()
	c.rec.Launched = Launched{Pid: started.pid}
	c.pidfd = c.m.hold(started)
	ours := true
	if st, err := sys.ReadProcStat(started.pid); err == nil && c.pidfd >= 0 {
		c.rec.StartTime = st.StartTime
		ours = st.PPID == os.Getpid()
	}
	err := c.save()
	if err == nil {
		err = c.startStreams()
	}
	c.mu.Unlock()
	if err != nil {
		c.m.end(started)
		return err
	}
	c.m.store.keep(c)
	if ours {
		c.m.reap.await(started.pid, started.since, c.exited)
		return nil
	}
	return c.watchPidfd()
}

// stdio is the container's side of its stdio, while the program starts.
type stdio struct {
	files   [3]int
	console *console
	own     []int // to close
	errPipe int   // read end of the program's own stderr, with a terminal; else -1
}

func (s *stdio) close() {
	closeFDs(s.own)
	if s.errPipe >= 0 {
		unix.Close(s.errPipe)
	}
	if s.console != nil {
		s.console.close()
	}
}

// openStdio opens the container's ends: stdout and stderr for reading and
// writing, so that a pipe without a reader makes the writer wait and never
// fail; stdin for reading only, so that the last writer's close is its end.
func (c *container) openStdio() (_ *stdio, err error) {
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
		s.console, err = c.m.newConsole()
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
func (c *container) errorText(s *stdio) string {
	fd := s.errPipe
	if fd >= 0 {
		_ = unix.SetNonblock(fd, true)
	}
	for _, st := range c.streams {
		if st.stderr {
			fd = st.fd
		}
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
