// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// readHandover returns what the image before this one left, nil when there was
// none. All its descriptors are ours, and close-on-exec again.
func readHandover() (*handover, error) {
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
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		return nil, fmt.Errorf("inherit: %w", err)
	}
	h := new(handover)
	if err := json.Unmarshal(b, h); err != nil {
		return nil, fmt.Errorf("inherit: %w", err)
	}
	h.each(unix.CloseOnExec)
	return h, nil
}

func (h *handover) each(f func(fd int)) {
	f(h.Lock)
	f(h.Listener)
	for _, kinds := range h.Containers {
		for _, fd := range kinds {
			f(fd)
		}
	}
	for _, c := range h.Conns {
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
func (m *Monitor) inherit(h *handover) error {
	m.counter.Store(h.Counter)
	for i := range h.Conns {
		if err := m.inheritConn(&h.Conns[i], i == h.Asker, h.Req); err != nil {
			m.log.Warn("connection not inherited", "err", err)
		}
	}
	var err error
	m.listener, err = wire.NewSocket(h.Listener)
	return err
}

func (m *Monitor) inheritConn(left *leftConn, asker bool, req uint64) error {
	sock, err := wire.NewSocket(left.FD)
	if err != nil {
		return err
	}
	c := newConn(m, sock)
	c.greeted = true
	for _, s := range left.Sessions {
		session := &session{number: s.Number, conn: c, pid: s.PID, pidfd: s.Pidfd}
		m.sessions[s.Number] = session
		m.await(session, time.Time{})
	}
	for _, a := range left.Attachments {
		c.inheritAttachment(a)
	}
	if asker {
		c.answer(&wire.Packet{Op: wire.OpUpgrade, Req: req}, nil, nil)
	}
	m.mu.Lock()
	m.conns[c] = struct{}{}
	m.mu.Unlock()
	if left.Subscribed { // so it has handed over what it kept; of exits that come again it knows which it has had
		m.running.GiveUpOrphans()
		c.follow()
	}
	return nil
}

func (c *conn) inheritAttachment(left leftAttachment) {
	a, err := c.m.running.Inherit(left.Inherited, c.tellDetached(left.Number))
	if err != nil { // its container has ended in the meantime
		c.post(&wire.Packet{Op: wire.OpDetached, Session: left.Number}, nil)
		return
	}
	c.attached[left.Number] = a
}

// inheritedLock is lockDir for the next image: the lock is the open file's.
func inheritedLock(h *handover) (*os.File, error) {
	f := os.NewFile(uintptr(h.Lock), "lock")
	if f == nil {
		return nil, errors.New("inherit: no lock")
	}
	return f, nil
}
