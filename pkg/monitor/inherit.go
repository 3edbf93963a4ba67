// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// readWill returns what the image before this one left, nil when there was
// none. All its descriptors are ours, and close-on-exec again.
func readWill() (*will, error) {
	text := os.Getenv(inheritEnv)
	if text == "" {
		return nil, nil
	}
	if err := os.Unsetenv(inheritEnv); err != nil {
		return nil, fmt.Errorf("inherit: %w", err)
	}
	fd, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("inherit: %w", err)
	}
	f := os.NewFile(uintptr(fd), "will")
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		return nil, fmt.Errorf("inherit: %w", err)
	}
	w := new(will)
	if err := json.Unmarshal(b, w); err != nil {
		return nil, fmt.Errorf("inherit: %w", err)
	}
	w.each(unix.CloseOnExec)
	return w, nil
}

func (w *will) each(f func(fd int)) {
	f(w.Lock)
	f(w.Listener)
	for _, kinds := range w.Containers {
		for _, fd := range kinds {
			f(fd)
		}
	}
	for _, c := range w.Conns {
		f(c.FD)
		for _, s := range c.Sessions {
			if s.Pidfd >= 0 {
				f(s.Pidfd)
			}
		}
		for _, a := range c.Attachments {
			for _, fd := range a.Sinks {
				f(fd)
			}
		}
	}
}

// inherit takes over the lock, the socket and what clients rely on. Containers
// have been recovered by then.
func (m *Monitor) inherit(w *will) error {
	m.instance, m.oomAdj = w.Instance, w.OOMAdj
	m.counter.Store(w.Counter)
	for i := range w.Conns {
		if err := m.inheritConn(&w.Conns[i], i == w.Asker, w.Req); err != nil {
			m.log.Warn("connection not inherited", "err", err)
		}
	}
	var err error
	m.listener, err = newSocket(w.Listener)
	return err
}

func (m *Monitor) inheritConn(w *willConn, asker bool, req uint64) error {
	sock, err := newSocket(w.FD)
	if err != nil {
		return err
	}
	c := newConn(m, sock)
	c.greeted = true
	for _, s := range w.Sessions {
		session := &session{number: s.Number, conn: c, pid: s.PID, pidfd: s.Pidfd}
		m.sessions[s.Number] = session
		m.reap.await(s.PID, time.Time{}, func(ws unix.WaitStatus) { m.endSession(session, ws) })
	}
	for _, left := range w.Attachments {
		c.inheritAttachment(left)
	}
	if asker {
		c.answer(&packet{Op: opUpgrade, Req: req}, nil, nil)
	}
	m.mu.Lock()
	m.conns[c] = struct{}{}
	m.mu.Unlock()
	if w.Subscribed { // what was published and not sent comes again; the client knows what it has had
		m.exits.replay(
			func(e Exit) { c.post(&packet{Op: opExit, Exit: &e}, nil) },
			func() {
				m.mu.Lock()
				c.subscribed = true
				m.mu.Unlock()
			})
	}
	return nil
}

func (c *conn) inheritAttachment(left willAttachment) {
	ct, err := c.m.container(left.ID)
	if err != nil { // it ended in the meantime
		for _, fd := range left.Sinks {
			unix.Close(fd)
		}
		c.post(&packet{Op: opDetached, Session: left.Number}, nil)
		return
	}
	a := &attachment{number: left.Number, conn: c, c: ct, stdin: left.Stdin, sinks: map[*sink]*stream{}}
	if a.stdin {
		ct.clients++
	}
	for _, st := range ct.streams {
		if fd, ok := left.Sinks[st.name]; ok {
			a.connect(st, fd)
		}
	}
	c.attached[a.number] = a
}

// inheritedLock is lockDir for the next image: the lock is the open file's.
func inheritedLock(w *will) (*os.File, error) {
	f := os.NewFile(uintptr(w.Lock), "lock")
	if f == nil {
		return nil, errors.New("inherit: no lock")
	}
	return f, nil
}
