// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/crilog"
	"github.com/cri-shim/cri-shim/pkg/monitor/poll"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// record is what the next monitor needs to know of a container: one JSON file
// in the container's directory, there from before the launch to the exit.
type record struct {
	wire.Launch          // without Argv and Env
	wire.Launched        // zero while the launch is under way
	OOMBase       uint64 `json:"oom_base,omitempty"`
	StdinShut     bool   `json:"stdin_shut,omitempty"`
}

// Container is one that was launched. Its directory holds the record, the
// named pipes, and what else must outlive the monitor.
type Container struct {
	set *Set
	dir string
	out *crilog.Output
	// told is closed once the launch was answered: the exit comes after that. nil for a recovered container.
	told chan struct{}
	// launched is closed when the launch is over, whichever way. nil for a recovered container.
	launched chan struct{}
	cut      context.CancelFunc // ends the launch while it is under way

	mu      sync.Mutex // guards what follows; not held across I/O that may block
	rec     record
	pidfd   int // -1: it has ended before we got one
	stdin   int // our write end of the stdin pipe, -1: none or closed
	tty     int // pty master, -1: none
	clients int // attachments with stdin
	// hadClient: an attachment with stdin has ended that its client knew of.
	hadClient bool
	orphan    bool // taken over from a dead monitor, exit not known yet
	ended     bool // exit is being or was handled
	// adopted is not nil while a client may still hand over the terminal of a container that was taken over. It is
	// closed when that is over, whichever way: the last output is read after that.
	adopted chan struct{}
	foreign *poll.Registration // of the pidfd, when it is not our child
	forget  func()             // ends the wait for it to become one
}

const (
	recordName = "state.json"
	exitName   = "exit.json" // the exit, from before the reap to the exit log
)

// ID is the container's.
func (c *Container) ID() string { return c.rec.ID }

// Listed is what a client hears of it. Orphan: taken over from a dead monitor, and
// Adopt may help.
func (c *Container) Listed() wire.Listed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return wire.Listed{Running: wire.Running{ID: c.rec.ID, Launched: c.rec.Launched}, Orphan: c.orphan || c.adopted != nil}
}

// ReopenLog goes on in a new log file. It waits for the log's file system.
func (c *Container) ReopenLog() error { return c.out.Reopen() }

func (s *Set) newContainer(l *wire.Launch) *Container {
	dir := filepath.Join(s.Dir, l.ID)
	rec := record{Launch: *l, OOMBase: cgroup.OOMKills(l.Cgroups)}
	rec.Argv, rec.Env = nil, nil
	return &Container{
		set: s, dir: dir, rec: rec, pidfd: -1, stdin: -1, tty: -1, told: make(chan struct{}), launched: make(chan struct{}),
		out: s.newOutput(dir, l),
	}
}

// save writes the record, atomically. The caller holds mu or is alone.
func (c *Container) save() error { return writeJSON(filepath.Join(c.dir, recordName), &c.rec) }

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// Descriptors returns duplicates of what a client should hold for the case that
// this monitor dies: also of a container that has ended, for its last output is
// read after that. The caller closes them.
func (c *Container) Descriptors() (kinds []wire.FDKind, fds []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add := func(kind wire.FDKind, fd int, err error) {
		if err == nil {
			kinds, fds = append(kinds, kind), append(fds, fd)
		}
	}
	for _, own := range []struct {
		kind wire.FDKind
		fd   int
	}{{wire.Pidfd, c.pidfd}, {wire.Stdin, c.stdin}, {wire.TTY, c.tty}} {
		if own.fd >= 0 {
			dup, err := sys.Duplicate(own.fd)
			add(own.kind, dup, err)
		}
	}
	for _, st := range c.out.Streams() {
		if !st.Terminal() {
			dup, err := st.DuplicateSource()
			add(wire.FDKind(st.Name()), dup, err)
		}
	}
	return kinds, fds
}

// CloseStdin closes the monitor's write end for good.
func (c *Container) CloseStdin() {
	if c.shutStdin() {
		c.set.Tell(&wire.Packet{Op: wire.OpStdinClosed, ID: c.rec.ID})
	}
}

// shutStdin reports whether there was a pipe to close.
func (c *Container) shutStdin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A terminal has no end of input but ^D, which is the writer's to send.
	if c.rec.StdinShut || !c.rec.Stdin || c.rec.Terminal || c.ended {
		return false
	}
	c.rec.StdinShut = true
	if c.stdin >= 0 {
		unix.Close(c.stdin)
		c.stdin = -1
	}
	if err := c.save(); err != nil {
		c.set.Log.Warn("container state not saved", "container", c.rec.ID, "err", err)
	}
	return true
}

// release closes everything but output, which finish and discard close.
func (c *Container) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.foreign != nil {
		c.foreign.Stop()
		c.foreign = nil
	}
	if c.forget != nil {
		c.forget()
		c.forget = nil
	}
	for _, fd := range []*int{&c.pidfd, &c.stdin, &c.tty} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// discard is the teardown of a launch that failed and of a forgotten container.
func (c *Container) discard() {
	c.out.Abandon()
	c.release()
	c.set.Store.Forget(c.rec.ID)
	if err := os.RemoveAll(c.dir); err != nil {
		c.set.Log.Warn("container directory not removed", "container", c.rec.ID, "err", err)
	}
}

// Resize sets the size of the terminal, in characters. FailedPrecondition when it
// has none.
func (c *Container) Resize(width, height uint16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty < 0 {
		return wire.FailedPrecondition(fmt.Errorf("resize %s: no terminal", c.rec.ID))
	}
	if err := unix.IoctlSetWinsize(c.tty, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
		return fmt.Errorf("resize %s: %w", c.rec.ID, err)
	}
	return nil
}

// Signal signals the first process. NotFound when it has ended.
func (c *Container) Signal(sig int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.pidfd < 0 {
		return wire.NotFound(fmt.Errorf("signal %s: process has ended", c.rec.ID))
	}
	err := sys.PidfdSignal(c.pidfd, sig)
	if errors.Is(err, unix.ESRCH) {
		err = wire.NotFound(err)
	}
	if errors.Is(err, unix.EINVAL) {
		err = wire.InvalidArgument(err)
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", c.rec.ID, err)
	}
	return nil
}
