// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/container"
	"github.com/cri-shim/cri-shim/pkg/monitor/crilog"
	"github.com/cri-shim/cri-shim/pkg/monitor/exitlog"
	"github.com/cri-shim/cri-shim/pkg/monitor/fdstore"
	"github.com/cri-shim/cri-shim/pkg/monitor/poll"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Options of a monitor process.
type Options struct {
	Dir    string // its own state; on a tmpfs, mode 0700, made when missing
	Socket string // path of the socket it listens on, at most 107 bytes
	// OOMScoreAdj is what programs it launches get back, because its own was lowered; "" leaves it alone.
	OOMScoreAdj string
	// Executable (absolute) and Args are what an upgrade executes; "" refuses upgrades.
	Executable string
	Args       []string
	// Check are arguments with which Executable says its build, as JSON, and ends: what does not is not executed for good.
	Check []string
	// BeforeExec is called when the execution is next; undo takes back what it did, should that fail. May be nil.
	BeforeExec func() (undo func())
	Upgrades   <-chan os.Signal  // each one asks for an upgrade
	Build      func() wire.Build // of this process; nil: nobody is told
	Listening  func()            // called once requests are accepted; may be nil
	Log        *slog.Logger
}

// Monitor is the node's one parent of containers.
type Monitor struct {
	o         Options
	log       *slog.Logger
	ctx       context.Context //nolint:containedctx // the process's lifetime, for work no request waits for
	build     func() wire.Build
	requests  map[wire.Op]request
	instance  string
	oomAdj    string
	gate      gate
	upgrading atomic.Bool
	lock      *os.File
	listener  *wire.Socket
	poll      *poll.Poller
	exits     *exitlog.Log
	reap      *child.Reaper
	consoles  *child.Consoles
	running   *container.Set
	quit      chan struct{} // closed by shutdown
	counter   atomic.Uint64 // of sessions

	mu       sync.Mutex // guards what follows
	conns    map[*conn]struct{}
	sessions map[uint64]*session
}

// Run is the monitor process: it takes the directory over from a monitor that
// died, listens, and returns when ctx ends. Containers outlive it.
func Run(ctx context.Context, o Options) error {
	if o.BeforeExec == nil {
		o.BeforeExec = func() func() { return func() {} }
	}
	if o.Build == nil {
		o.Build = func() wire.Build { return wire.Build{} }
	}
	m := &Monitor{
		o: o, log: o.Log, ctx: ctx, build: sync.OnceValue(o.Build), requests: requests(), instance: wire.NewName(), oomAdj: o.OOMScoreAdj, quit: make(chan struct{}),
		consoles: &child.Consoles{Dir: o.Dir}, conns: map[*conn]struct{}{}, sessions: map[uint64]*session{},
	}
	if err := m.open(); err != nil {
		return err
	}
	return m.loop(ctx)
}

// open takes the directory, finishes what a dead monitor left, and listens.
func (m *Monitor) open() (err error) {
	if err := os.MkdirAll(m.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make monitor directory: %w", err)
	}
	// Whatever else we were born with is not for containers to have. (Linux 5.11; before that it is up to our parent.)
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		m.log.Debug("inherited descriptors not closed for children", "err", err)
	}
	h, err := readHandover()
	if err != nil {
		return err
	}
	store, left, err := fdstore.Open(m.log)
	if err != nil {
		return err
	}
	if h != nil {
		m.instance, m.oomAdj, left = h.Instance, h.OOMAdj, h.Containers
		m.lock, err = inheritedLock(h)
	} else {
		m.lock, err = lockDir(m.o.Dir)
	}
	if err != nil {
		return err
	}
	// Orphans of the programs we launch come to us, not to init.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	if err := m.openSet(&store); err != nil {
		return err
	}
	if err := m.running.Recover(left); err != nil {
		return err
	}
	if h != nil {
		return m.inherit(h)
	}
	m.listener, err = wire.Listen(m.o.Socket)
	return err
}

// openSet makes what containers need.
func (m *Monitor) openSet(store *fdstore.Store) (err error) {
	m.reap = child.NewReaper(m.oomAdj)
	if m.poll, err = poll.New(); err != nil {
		return err
	}
	if m.exits, err = exitlog.Open(filepath.Join(m.o.Dir, "exits.log"), m.log); err != nil {
		return err
	}
	journal, err := crilog.OpenJournal(filepath.Join(m.o.Dir, "journal"), m.log)
	if err != nil {
		return err
	}
	m.running = container.NewSet(container.Node{
		Dir: m.o.Dir, Log: m.log, Life: m.ctx, Poller: m.poll, Journal: journal, Exits: m.exits, Reaper: m.reap, Consoles: m.consoles,
		Store: store, Tell: m.tell,
	})
	return nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := sys.LockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, sys.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", wire.ErrRunning, err)
	}
	return f, err
}

func (m *Monitor) loop(ctx context.Context) error {
	go m.reap.Run(ctx)
	failed := make(chan error, 2)
	go func() { failed <- m.poll.Run() }()
	m.startConns()
	go func() { failed <- m.serve() }()
	if m.o.Listening != nil {
		m.o.Listening()
	}
	m.log.Info("monitor ready", "pid", os.Getpid(), "dir", m.o.Dir, "containers", len(m.running.All()))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.quit:
			return nil
		case err := <-failed:
			return err
		case <-m.o.Upgrades:
			go m.upgradeUnasked()
		}
	}
}

// shutdown ends the process, unless it has containers to watch.
func (m *Monitor) shutdown() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.running.All()); n > 0 {
		return wire.FailedPrecondition(fmt.Errorf("shut down: %d containers are running", n))
	}
	select {
	case <-m.quit:
	default:
		close(m.quit)
	}
	return nil
}

// acceptPause is what serve waits while there are no descriptors or no memory to
// accept with: there is no event for "there are again".
const acceptPause = 100 * time.Millisecond

// serve accepts connections for ever, inside the gate: one that comes during an
// upgrade is the next image's. A shortage does not end it: the monitor's end would
// cost more than clients that wait.
func (m *Monitor) serve() error {
	short := false
	for {
		inside := false
		fd, err := m.listener.Accept(func() bool { inside = m.gate.tryEnter(); return inside })
		if err == nil {
			if err := m.welcome(fd); err != nil {
				m.log.Warn("connection refused", "err", err)
			}
		}
		if inside {
			m.gate.leave()
		}
		switch {
		case err == nil:
			short = false
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case errors.Is(err, wire.ErrRefused):
			m.gate.awaitOpen()
		case isShortage(err):
			if !short { // once, not ten times a second
				m.log.Error("connection not accepted, trying again", "err", err)
			}
			short = true
			select {
			case <-m.ctx.Done():
				return nil
			case <-time.After(acceptPause):
			}
		default:
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// isShortage reports whether err passes by itself when others give something back.
func isShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// welcome begins to serve a connection, for the monitor's own user only.
func (m *Monitor) welcome(fd int) error {
	s, err := wire.NewSocket(fd)
	if err != nil {
		return err
	}
	cred, err := s.Peer()
	if err == nil && cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("peer is user %d", cred.Uid)
	}
	if err != nil {
		s.Close()
		return err
	}
	c := newConn(m, s)
	m.mu.Lock()
	m.conns[c] = struct{}{}
	m.mu.Unlock()
	c.start()
	return nil
}

// startConns begins to serve the inherited connections.
func (m *Monitor) startConns() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.start()
	}
}

// tell tells every subscriber.
func (m *Monitor) tell(p *wire.Packet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if c.subscribed {
			c.post(p, nil)
		}
	}
}
