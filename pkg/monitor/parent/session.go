// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// session is an exec: a process whose stdio the client holds and whose exit
// goes to that client alone. It is not durable, and ends with the connection.
type session struct {
	number uint64
	conn   *conn
	pid    int
	pidfd  int // -1: it has ended before we got one

	foreign func() // ends what waits for a process that is not our child; nil if it is
}

// exec runs the request's argv with the request's descriptors as stdio.
func (c *conn) exec(ctx context.Context, p *wire.Packet, fds []int) {
	defer wire.CloseFDs(fds)
	if p.Exec == nil {
		c.answer(p, nil, wire.InvalidArgument(errors.New("exec: it does not say what")))
		return
	}
	defer c.m.reap.Expect()()
	started, master, err := c.m.startSession(ctx, p, fds)
	if err != nil {
		c.answer(p, nil, fmt.Errorf("exec: %w", err))
		return
	}
	s := &session{number: c.m.counter.Add(1), conn: c, pid: started.PID, pidfd: c.m.reap.Pidfd(started)}
	r := &wire.Packet{Op: p.Op, Req: p.Req, Session: s.number}
	var hand []int
	if s.pidfd >= 0 {
		if dup, err := sys.Duplicate(s.pidfd); err == nil {
			r.FDs, hand = append(r.FDs, wire.Pidfd), append(hand, dup)
		}
	}
	if master >= 0 {
		r.FDs, hand = append(r.FDs, wire.TTY), append(hand, master)
	}
	launched := wire.Launched{Pid: started.PID}
	if st, err := sys.ReadProcStat(started.PID); err == nil && s.pidfd >= 0 {
		launched.StartTime = st.StartTime
	}
	r.Running = []wire.Listed{{Running: wire.Running{Launched: launched}}}
	c.m.mu.Lock()
	c.m.sessions[s.number] = s
	c.m.mu.Unlock()
	c.post(r, hand) // before the exit can be
	c.m.await(s, started.Since)
	if c.gone() {
		s.kill()
	}
}

// await has the session end with its process, which was started at the given time.
func (m *Monitor) await(s *session, since time.Time) {
	ours := m.reap.Child(child.Process{PID: s.pid, Since: since})
	if !ours && s.pidfd < 0 { // the program has waited for it itself
		m.endSession(s, nil)
		return
	}
	// A runtime of two processes may leave it to us only now, after the one that we waited for is gone.
	forget := m.reap.Await(s.pid, since, func(ws unix.WaitStatus) { m.endSession(s, &ws) })
	if !ours {
		m.awaitForeign(s, forget)
	}
}

// awaitForeign has the session end with its process, which another one may reap.
func (m *Monitor) awaitForeign(s *session, forget func()) {
	var start uint64
	if st, err := sys.ReadProcStat(s.pid); err == nil {
		start = st.StartTime
	}
	m.mu.Lock()
	if m.sessions[s.number] != s { // ended meanwhile
		m.mu.Unlock()
		return
	}
	r, err := m.poll.Add(s.pidfd, func(uint32) { m.foreignEnd(s, start) })
	if err == nil {
		s.foreign = func() { r.Stop(); forget() }
		r.Arm(unix.EPOLLIN)
	}
	m.mu.Unlock()
	if err != nil { // nobody would hear of its end
		s.kill()
		m.endSession(s, nil)
	}
}

// foreignEnd ends the session whose process another one reaps, with what can be told of it.
func (m *Monitor) foreignEnd(s *session, start uint64) {
	m.mu.Lock()
	if s.pidfd < 0 { // the reaper has told
		m.mu.Unlock()
		return
	}
	status, known := sys.ForeignStatus(s.pidfd, s.pid, start)
	m.mu.Unlock()
	if known {
		m.endSession(s, &status)
		return
	}
	m.endSession(s, nil)
}

// startSession runs the program and returns the session's process and, with a
// terminal, the pty master.
func (m *Monitor) startSession(ctx context.Context, p *wire.Packet, fds []int) (child.Process, int, error) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return child.Process{}, -1, fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(null)
	prog := &child.Program{Argv: p.Exec.Argv, Env: p.Exec.Env, Dir: p.Exec.Dir, PidFile: p.Exec.PidFile, Files: [3]int{null, null, null}}
	if score := p.Exec.OOMScoreAdj; score != nil {
		prog.OOMScoreAdj = strconv.Itoa(*score)
	}
	for i, kind := range p.FDs {
		// What the client made may be non-blocking; programs expect it not to be.
		_ = unix.SetNonblock(fds[i], false)
		switch kind {
		case wire.Stdin:
			prog.Files[0] = fds[i]
		case wire.Stdout:
			prog.Files[1] = fds[i]
		case wire.Stderr:
			prog.Files[2] = fds[i]
		}
	}
	if !p.Exec.Terminal {
		started, err := m.reap.Start(ctx, prog)
		return started, -1, err
	}
	tty, err := m.consoles.New()
	if err != nil {
		return child.Process{}, -1, err
	}
	defer tty.Close()
	prog.Argv = tty.Fill(prog.Argv)
	started, err := m.reap.Start(ctx, prog)
	if err != nil {
		return child.Process{}, -1, err
	}
	master, err := tty.Receive()
	if err != nil {
		m.reap.Kill(started)
		return child.Process{}, -1, err
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

// endSession reports the session's exit to its client; nil: nobody saw it. Only the first call counts.
func (m *Monitor) endSession(s *session, ws *unix.WaitStatus) {
	m.mu.Lock()
	if m.sessions[s.number] != s {
		m.mu.Unlock()
		return
	}
	delete(m.sessions, s.number)
	if s.foreign != nil {
		s.foreign()
	}
	if s.pidfd >= 0 {
		unix.Close(s.pidfd)
		s.pidfd = -1
	}
	m.mu.Unlock()
	exit := &wire.Exit{Pid: s.pid, Code: 255, Unknown: true, Time: time.Now()}
	if ws != nil {
		exit.Code, exit.Signal = child.ExitCode(*ws)
		exit.Unknown = false
	}
	s.conn.post(&wire.Packet{Op: wire.OpSessionExit, Session: s.number, Exit: exit}, nil)
}

// dropSessions kills the sessions of a client that is gone: no client can ever
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
