// SPDX-License-Identifier: Apache-2.0

package parent

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

	"github.com/cri-shim/cri-shim/pkg/monitor/container"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// An upgrade is a crash with a handover: the process executes its binary anew and
// the new image goes through the same recovery as a successor, but inherits the
// pid, and with it the children, the lock and the descriptors of the handover.
// Nothing that recovery handles is stopped for it. Only what lives in memory
// alone is brought to rest first: requests, launches, unsent packets.

const (
	inheritEnv      = "CRI_MONITOR_INHERIT" // descriptor of the handover
	upgradePatience = 10 * time.Second      // for launches under way
	flushPatience   = time.Second           // for a client that does not read
)

// handover is what one image leaves to the next. Numbers are descriptors. Names
// and meanings stay, as those of the protocol do: the other image may be older.
type handover struct {
	Instance   string                         `json:"instance"`
	Counter    uint64                         `json:"counter"`
	OOMAdj     string                         `json:"oom_adj,omitempty"`
	Lock       int                            `json:"lock"`
	Listener   int                            `json:"listener"`
	Containers map[string]map[wire.FDKind]int `json:"containers"`
	Conns      []leftConn                     `json:"conns"`
	Asker      int                            `json:"asker"` // index of the connection that asked
	Req        uint64                         `json:"req"`
}

type leftConn struct {
	FD          int              `json:"fd"`
	Subscribed  bool             `json:"subscribed,omitempty"`
	Sessions    []leftSession    `json:"sessions,omitempty"`
	Attachments []leftAttachment `json:"attachments,omitempty"`
}

type leftSession struct {
	Number uint64 `json:"number"`
	PID    int    `json:"pid"`
	Pidfd  int    `json:"pidfd"`
}

type leftAttachment struct {
	Number uint64 `json:"number"`
	container.Inherited
}

// upgrade serves the request. On success the new image answers it.
func (c *conn) upgrade(p *wire.Packet) {
	go func() {
		if err := c.m.upgrade(c, p.Req); err != nil {
			c.answer(p, nil, fmt.Errorf("upgrade: %w", err))
		}
	}()
}

// upgradeUnasked is an upgrade that no client waits for.
func (m *Monitor) upgradeUnasked() {
	if err := m.upgrade(nil, 0); err != nil {
		m.log.Error("monitor not replaced, it goes on", "err", err)
	}
}

// upgrade does not return unless it fails; the monitor then goes on as before.
func (m *Monitor) upgrade(asker *conn, req uint64) error {
	if m.o.Executable == "" {
		return wire.FailedPrecondition(errors.New("the monitor was not told what to execute"))
	}
	if !m.upgrading.CompareAndSwap(false, true) {
		return wire.FailedPrecondition(errors.New("another one is under way"))
	}
	defer m.upgrading.Store(false)
	next, err := m.checkNext()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.ctx, upgradePatience)
	defer cancel()
	if err := m.gate.close(ctx); err != nil {
		return wire.Unavailable(fmt.Errorf("requests under way: %w", err))
	}
	defer m.gate.open()
	if err := m.running.AwaitLogs(flushPatience); err != nil {
		return err
	}
	defer m.reap.Pause()() // who dies from here on is the next image's to reap
	m.flush()
	own := m.build()
	m.log.Info("monitor executes the new binary", "path", m.o.Executable,
		"from", own.Version, "to", next.Version, "from_build", own.ID, "to_build", next.ID)
	defer m.o.BeforeExec()()
	err = m.execute(asker, req)
	return fmt.Errorf("execute %s: %w", m.o.Executable, err)
}

// flush waits until clients have what was sent to them; one that does not read is
// cut off. What is told of its end goes to the others before this returns.
func (m *Monitor) flush() {
	for again := true; again; {
		again = false
		m.mu.Lock()
		conns := slices.Collect(maps.Keys(m.conns))
		m.mu.Unlock()
		for _, c := range conns {
			if !c.flush() {
				c.close() // its reader, which has the socket to close, waits for the gate
				again = true
			}
		}
	}
}

// flush waits until the client has what was sent to it. false: it has not, and was
// cut off.
func (c *conn) flush() bool {
	late := false
	t := time.AfterFunc(flushPatience, func() {
		c.mu.Lock()
		late = true
		c.wake.Broadcast()
		c.mu.Unlock()
	})
	defer t.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for (len(c.queue) > 0 || c.sending) && !late && !c.closed {
		c.wake.Wait()
	}
	if late {
		c.m.log.Warn("client disconnected for the upgrade: it does not read", "packets", len(c.queue))
		c.shut()
	}
	return !c.closed
}

// execute writes the handover and becomes the next image.
func (m *Monitor) execute(asker *conn, req uint64) (err error) {
	h, fds, dups := m.handOver(asker, req)
	defer wire.CloseFDs(dups)
	memfd, err := unix.MemfdCreate("monitor-handover", 0)
	if err != nil {
		return err
	}
	defer unix.Close(memfd)
	b, err := json.Marshal(h)
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

// handOver lists everything that is to be inherited, and its descriptors. Requests
// rest, but containers may end meanwhile: of theirs it lists duplicates, which
// no other goroutine closes.
func (m *Monitor) handOver(asker *conn, req uint64) (h handover, fds, dups []int) {
	inherit := func(fd int) int {
		if fd >= 0 {
			fds = append(fds, fd)
		}
		return fd
	}
	h = handover{
		Instance: m.instance, Counter: m.counter.Load(), OOMAdj: m.oomAdj, Req: req, Asker: -1,
		Lock: inherit(int(m.lock.Fd())), Listener: inherit(m.listener.Number()), Containers: map[string]map[wire.FDKind]int{},
	}
	for _, c := range m.running.All() {
		kinds, own := c.Descriptors()
		dups = append(dups, own...)
		left := map[wire.FDKind]int{}
		for i, kind := range kinds {
			left[kind] = inherit(own[i])
		}
		h.Containers[c.ID()] = left
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if c == asker {
			h.Asker = len(h.Conns)
		}
		left := leftConn{FD: inherit(c.sock.Number()), Subscribed: c.subscribed}
		for _, s := range m.sessions {
			if s.conn == c {
				left.Sessions = append(left.Sessions, leftSession{Number: s.number, PID: s.pid, Pidfd: inherit(s.pidfd)})
			}
		}
		for number, a := range c.attachments() {
			own := a.Leave()
			for _, fd := range own.Sinks {
				dups = append(dups, inherit(fd))
			}
			left.Attachments = append(left.Attachments, leftAttachment{Number: number, Inherited: own})
		}
		h.Conns = append(h.Conns, left)
	}
	return h, fds, dups
}
