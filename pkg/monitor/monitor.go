// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

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
	Listening  func() // called once requests are accepted; may be nil
	Log        *slog.Logger
}

// ErrRunning is the error of a second monitor on the same directory.
var ErrRunning = errors.New("another monitor has this directory")

// Monitor is the node's one parent of containers.
type Monitor struct {
	o         Options
	log       *slog.Logger
	ctx       context.Context //nolint:containedctx // the process's lifetime, for work no request waits for
	instance  string
	oomAdj    string
	gate      gate
	upgrading atomic.Bool
	lock      *os.File
	store     fdStore
	listener  *socket
	poll      *poller
	journal   *journal
	exits     *exitLog
	reap      *reaper
	quit      chan struct{} // closed by shutdown
	counter   atomic.Uint64 // sessions, console sockets

	mu         sync.Mutex // guards what follows
	containers map[string]*container
	conns      map[*conn]struct{}
	sessions   map[uint64]*session
	outputs    map[*output]struct{} // whose files are open, of containers that have ended too
}

// Run is the monitor process: it takes the directory over from a monitor that
// died, listens, and returns when ctx ends. Containers outlive it.
func Run(ctx context.Context, o Options) error {
	m := &Monitor{
		o: o, log: o.Log, ctx: ctx, oomAdj: o.OOMScoreAdj, reap: newReaper(), quit: make(chan struct{}),
		containers: map[string]*container{}, conns: map[*conn]struct{}{}, sessions: map[uint64]*session{},
		outputs: map[*output]struct{}{},
	}
	m.instance = newName()
	if err := m.open(); err != nil {
		return err
	}
	return m.loop(ctx)
}

// newName returns a name nothing had before. The runtime's generator is seeded
// by the kernel; crypto/rand would be a tenth of the binary.
func newName() string { return strconv.FormatUint(rand.Uint64(), 36) }

// open takes the directory, finishes what a dead monitor left, and listens.
func (m *Monitor) open() (err error) {
	if err := os.MkdirAll(m.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make monitor directory: %w", err)
	}
	// Whatever else we were born with is not for containers to have. (Linux 5.11; before that it is up to our parent.)
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		m.log.Debug("inherited descriptors not closed for children", "err", err)
	}
	w, err := readWill()
	if err != nil {
		return err
	}
	var left map[string]map[fdKind]int
	if m.store, left, err = openStore(m.log); err != nil {
		return err
	}
	if w != nil {
		m.lock, err = inheritedLock(w)
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
	if m.poll, err = newPoller(); err != nil {
		return err
	}
	if m.exits, err = openExitLog(filepath.Join(m.o.Dir, "exits.log"), m.log); err != nil {
		return err
	}
	if m.journal, err = openJournal(filepath.Join(m.o.Dir, "journal")); err != nil {
		return err
	}
	if w != nil {
		left = w.Containers
	}
	if err := m.recover(left); err != nil {
		return err
	}
	if w != nil {
		return m.inherit(w)
	}
	m.listener, err = listen(m.o.Socket)
	return err
}

func lockDir(dir string) (*os.File, error) {
	f, err := sys.LockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, sys.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", ErrRunning, err)
	}
	return f, err
}

func (m *Monitor) loop(ctx context.Context) error {
	signals, stop := childSignals()
	defer stop()
	go m.reap.run(ctx, signals)
	failed := make(chan error, 2)
	go func() { failed <- m.poll.run() }()
	m.startConns()
	go func() { failed <- m.serve() }()
	if m.o.Listening != nil {
		m.o.Listening()
	}
	m.mu.Lock()
	n := len(m.containers)
	m.mu.Unlock()
	m.log.Info("monitor ready", "pid", os.Getpid(), "dir", m.o.Dir, "containers", n)
	select {
	case <-ctx.Done():
		return nil
	case <-m.quit:
		return nil
	case err := <-failed:
		return err
	}
}

// shutdown ends the process, unless it has containers to watch.
func (m *Monitor) shutdown() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.containers); n > 0 {
		return failedCondition{fmt.Errorf("shut down: %d containers are running", n)}
	}
	select {
	case <-m.quit:
	default:
		close(m.quit)
	}
	return nil
}

// serve accepts connections for ever.
func (m *Monitor) serve() error {
	for {
		fd, err := m.listener.accept()
		if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if err := m.welcome(fd); err != nil {
			m.log.Warn("connection refused", "err", err)
		}
	}
}

// welcome begins to serve a connection, for the monitor's own user only.
func (m *Monitor) welcome(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil && cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("peer is user %d", cred.Uid)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	s, err := newSocket(fd)
	if err != nil {
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

// newOutput makes the output of a container, and remembers it until it is closed.
func (m *Monitor) newOutput(dir string, l *Launch) *output {
	o := newOutput(l.ID, dir, l.LogPath, m.journal, m.log)
	o.log.dir = l.LogDir
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outputs[o] = struct{}{}
	o.closed = func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.outputs, o)
	}
	return o
}

// enter reserves c's id.
func (m *Monitor) enter(c *container) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.containers[c.rec.ID]; ok {
		return alreadyExists{fmt.Errorf("container %s is already running", c.rec.ID)}
	}
	m.containers[c.rec.ID] = c
	return nil
}

func (m *Monitor) leave(c *container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[c.rec.ID] == c {
		delete(m.containers, c.rec.ID)
	}
}

func (m *Monitor) container(id string) (*container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil {
		return nil, notFound{fmt.Errorf("container %s is not running", id)}
	}
	return c, nil
}

// publish tells every subscriber of an exit; the exit log orders the calls.
func (m *Monitor) publish(e Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if c.subscribed {
			c.post(&packet{Op: opExit, Exit: &e}, nil)
		}
	}
}

// broadcast tells every subscriber.
func (m *Monitor) broadcast(p *packet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if c.subscribed {
			c.post(p, nil)
		}
	}
}
