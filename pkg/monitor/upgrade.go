// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An upgrade is a crash with a will: the process executes its binary anew and
// the new image goes through the same recovery as a successor, but inherits the
// pid, and with it the children, the lock and the descriptors listed below.
// Nothing that recovery handles is stopped for it. Only what lives in memory
// alone is brought to rest first: requests, launches, unsent packets.

const (
	inheritEnv      = "CRI_MONITOR_INHERIT" // descriptor of the will
	upgradePatience = 10 * time.Second      // for launches under way
	flushPatience   = time.Second           // for a client that does not read
)

// will is what one image leaves to the next. Numbers are descriptors.
type will struct {
	Instance   string                    `json:"instance"`
	Counter    uint64                    `json:"counter"`
	OOMAdj     string                    `json:"oom_adj,omitempty"`
	Lock       int                       `json:"lock"`
	Listener   int                       `json:"listener"`
	Containers map[string]map[fdKind]int `json:"containers"`
	Conns      []willConn                `json:"conns"`
	Asker      int                       `json:"asker"` // index of the connection that asked
	Req        uint64                    `json:"req"`
}

type willConn struct {
	FD          int              `json:"fd"`
	Subscribed  bool             `json:"subscribed,omitempty"`
	Sessions    []willSession    `json:"sessions,omitempty"`
	Attachments []willAttachment `json:"attachments,omitempty"`
}

type willSession struct {
	Number uint64 `json:"number"`
	PID    int    `json:"pid"`
	Pidfd  int    `json:"pidfd"`
}

type willAttachment struct {
	Number uint64         `json:"number"`
	ID     string         `json:"id"`
	Stdin  bool           `json:"stdin,omitempty"`
	Sinks  map[string]int `json:"sinks,omitempty"`
}

// upgrade serves the request. On success the new image answers it.
func (c *conn) upgrade(p *packet) {
	go func() {
		if err := c.m.upgrade(c, p.Req); err != nil {
			c.answer(p, nil, fmt.Errorf("upgrade: %w", err))
		}
	}()
}

// upgrade does not return unless it fails; the monitor then goes on as before.
func (m *Monitor) upgrade(asker *conn, req uint64) error {
	if m.o.Executable == "" {
		return failedCondition{errors.New("the monitor was not told what to execute")}
	}
	if !m.upgrading.CompareAndSwap(false, true) {
		return failedCondition{errors.New("another one is under way")}
	}
	defer m.upgrading.Store(false)
	ctx, cancel := context.WithTimeout(m.ctx, upgradePatience)
	defer cancel()
	if err := m.gate.close(ctx); err != nil {
		return unavailable{fmt.Errorf("requests under way: %w", err)}
	}
	defer m.gate.open()
	if err := m.awaitLogs(); err != nil {
		return err
	}
	m.reap.hold.Lock() // who dies from here on is the next image's to reap
	defer m.reap.hold.Unlock()
	m.flush()
	m.log.Info("monitor executes its binary anew", "path", m.o.Executable)
	err := m.execute(asker, req)
	return fmt.Errorf("execute %s: %w", m.o.Executable, err)
}

// awaitLogs fails when a log does not answer: the kernel would wait with the
// execution until the thread that writes it is back.
func (m *Monitor) awaitLogs() error {
	m.mu.Lock()
	all := slices.Collect(maps.Keys(m.outputs))
	m.mu.Unlock()
	for _, o := range all {
		if !within(o.idle(), flushPatience) {
			return unavailable{fmt.Errorf("log of %s does not answer, does its file system hang?", o.id)}
		}
	}
	return nil
}

// flush waits until clients have what was sent to them; one that does not read
// is cut off.
func (m *Monitor) flush() {
	m.mu.Lock()
	conns := make([]*conn, 0, len(m.conns))
	for c := range m.conns {
		conns = append(conns, c)
	}
	m.mu.Unlock()
	for _, c := range conns {
		late := false
		t := time.AfterFunc(flushPatience, func() {
			c.mu.Lock()
			late = true
			c.wake.Broadcast()
			c.mu.Unlock()
		})
		c.mu.Lock()
		for (len(c.queue) > 0 || c.sending) && !late && !c.closed {
			c.wake.Wait()
		}
		if late {
			c.shut()
		}
		c.mu.Unlock()
		t.Stop()
	}
}

// execute writes the will and becomes the next image.
func (m *Monitor) execute(asker *conn, req uint64) (err error) {
	w, fds, dups := m.will(asker, req)
	defer closeFDs(dups)
	memfd, err := unix.MemfdCreate("monitor-will", 0)
	if err != nil {
		return err
	}
	defer unix.Close(memfd)
	b, err := json.Marshal(w)
	if err == nil {
		_, err = unix.Pwrite(memfd, b, 0)
	}
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
		defer unix.CloseOnExec(fd) // reached when the execution fails
	}
	env := []string{inheritEnv + "=" + strconv.Itoa(memfd)}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, inheritEnv+"=") {
			env = append(env, v)
		}
	}
	return syscall.Exec(m.o.Executable, append([]string{m.o.Executable}, m.o.Args...), env)
}

// will lists everything that is to be inherited, and its descriptors. Requests
// rest, but containers may end meanwhile: of theirs it lists duplicates, which
// nobody else closes.
func (m *Monitor) will(asker *conn, req uint64) (w will, fds, dups []int) {
	inherit := func(fd int) int {
		if fd >= 0 {
			fds = append(fds, fd)
		}
		return fd
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w = will{
		Instance: m.instance, Counter: m.counter.Load(), OOMAdj: m.oomAdj, Req: req, Asker: -1,
		Lock: inherit(int(m.lock.Fd())), Listener: inherit(m.listener.number()), Containers: map[string]map[fdKind]int{},
	}
	for id, c := range m.containers {
		kinds, own := c.descriptors()
		dups = append(dups, own...)
		left := map[fdKind]int{}
		for i, kind := range kinds {
			left[kind] = inherit(own[i])
		}
		w.Containers[id] = left
	}
	for c := range m.conns {
		if c == asker {
			w.Asker = len(w.Conns)
		}
		w.Conns = append(w.Conns, c.will(inherit))
	}
	return w, fds, dups
}

func (c *conn) will(inherit func(int) int) willConn {
	w := willConn{FD: inherit(c.sock.number()), Subscribed: c.subscribed}
	for _, s := range c.m.sessions {
		if s.conn == c {
			w.Sessions = append(w.Sessions, willSession{Number: s.number, PID: s.pid, Pidfd: inherit(s.pidfd)})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.attached {
		left := willAttachment{Number: a.number, ID: a.c.rec.ID, Stdin: a.stdin, Sinks: map[string]int{}}
		for s, st := range a.sinks {
			st.sinkMu.Lock()
			if st.attached(s) {
				left.Sinks[st.name] = inherit(s.fd)
			}
			st.sinkMu.Unlock()
		}
		w.Attachments = append(w.Attachments, left)
	}
	return w
}
