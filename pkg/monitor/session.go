// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// session is an exec: a process whose stdio the client holds and whose exit
// goes to that client alone. It is not durable, and ends with the connection.
type session struct {
	number uint64
	conn   *conn
	pid    int
	pidfd  int // -1: it has ended before we got one
}

// exec runs the request's argv with the request's descriptors as stdio.
func (c *conn) exec(ctx context.Context, p *packet, fds []int) {
	defer closeFDs(fds)
	defer c.m.reap.begin()()
	started, master, err := c.m.startSession(ctx, p, fds)
	if err != nil {
		c.answer(p, nil, fmt.Errorf("exec: %w", err))
		return
	}
	s := &session{number: c.m.counter.Add(1), conn: c, pid: started.pid, pidfd: c.m.hold(started)}
	r := &packet{Op: p.Op, Req: p.Req, Session: s.number}
	var hand []int
	if s.pidfd >= 0 {
		if dup, err := unix.FcntlInt(uintptr(s.pidfd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			r.FDs, hand = append(r.FDs, fdPidfd), append(hand, dup)
		}
	}
	if master >= 0 {
		r.FDs, hand = append(r.FDs, fdTTY), append(hand, master)
	}
	launched := Launched{Pid: started.pid}
	if st, err := sys.ReadProcStat(started.pid); err == nil && s.pidfd >= 0 {
		launched.StartTime = st.StartTime
	}
	r.Running = []listed{{Running: Running{Launched: launched}}}
	c.m.mu.Lock()
	c.m.sessions[s.number] = s
	c.m.mu.Unlock()
	c.post(r, hand) // before the exit can be
	c.m.reap.await(started.pid, started.since, func(ws unix.WaitStatus) { c.m.endSession(s, ws) })
	if c.gone() {
		s.kill()
	}
}

// startSession runs the program and returns the session's process and, with a
// terminal, the pty master.
func (m *Monitor) startSession(ctx context.Context, p *packet, fds []int) (child, int, error) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return child{}, -1, fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(null)
	prog := &program{argv: p.Exec.Argv, env: p.Exec.Env, dir: p.Exec.Dir, pidFile: p.Exec.PidFile, files: [3]int{null, null, null}}
	for i, kind := range p.FDs {
		// What the client made may be non-blocking; programs expect it not to be.
		_ = unix.SetNonblock(fds[i], false)
		switch kind {
		case fdStdin:
			prog.files[0] = fds[i]
		case fdStdout:
			prog.files[1] = fds[i]
		case fdStderr:
			prog.files[2] = fds[i]
		}
	}
	if !p.Exec.Terminal {
		started, err := m.run(ctx, prog)
		return started, -1, err
	}
	tty, err := m.newConsole()
	if err != nil {
		return child{}, -1, err
	}
	defer tty.close()
	prog.argv = tty.fill(prog.argv)
	started, err := m.run(ctx, prog)
	if err != nil {
		return child{}, -1, err
	}
	master, err := tty.receive()
	if err != nil {
		m.end(started)
		return child{}, -1, err
	}
	return started, master, nil
}

func (s *session) kill() {
	s.conn.m.mu.Lock()
	defer s.conn.m.mu.Unlock()
	if s.pidfd >= 0 {
		_ = sys.PidfdSignal(s.pidfd, sys.SIGKILL)
	}
}

// endSession reports the session's exit to its client.
func (m *Monitor) endSession(s *session, ws unix.WaitStatus) {
	m.mu.Lock()
	delete(m.sessions, s.number)
	if s.pidfd >= 0 {
		unix.Close(s.pidfd)
		s.pidfd = -1
	}
	m.mu.Unlock()
	code, sig := exitCode(ws)
	s.conn.post(&packet{Op: opSessionExit, Session: s.number, Exit: &Exit{Pid: s.pid, Code: code, Signal: sig, Time: time.Now()}}, nil)
}

// dropSessions kills the sessions of a client that is gone: nobody can ever
// hear of their end.
func (m *Monitor) dropSessions(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		if s.conn == c && s.pidfd >= 0 {
			_ = sys.PidfdSignal(s.pidfd, sys.SIGKILL)
		}
	}
}

func (c *conn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
