// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// record is what the next monitor needs to know of a container: one JSON file
// in the container's directory, there from before the launch to the exit.
type record struct {
	Launch           // without Argv and Env
	Launched         // zero while the launch is under way
	OOMBase   uint64 `json:"oom_base,omitempty"`
	StdinShut bool   `json:"stdin_shut,omitempty"`
}

// container is one launched container. Its directory holds the record, the
// named pipes, and what else must outlive the monitor.
type container struct {
	m   *Monitor
	dir string
	out *output
	// told is closed once the launch was answered: the exit comes after that. nil for a recovered container.
	told chan struct{}
	// launched is closed when the launch is over, whichever way. nil for a recovered container.
	launched chan struct{}
	cut      context.CancelFunc // ends the launch while it is under way

	mu      sync.Mutex // guards what follows; not held across I/O that may block
	rec     record
	pidfd   int       // -1: it has ended before we got one
	stdin   int       // our write end of the stdin pipe, -1: none or closed
	tty     int       // pty master, -1: none
	streams []*stream // their set does not change after the launch
	clients int       // attachments with stdin
	// hadClient: an attachment with stdin has ended that its client knew of.
	hadClient bool
	orphan    bool   // taken over from a dead monitor, exit not known yet
	ended     bool   // exit is being or was handled
	watch     *watch // of the pidfd, when it is not our child
}

const (
	recordName = "state.json"
	exitName   = "exit.json" // the exit, from before the reap to the exit log
)

func (m *Monitor) newContainer(l *Launch) *container {
	dir := filepath.Join(m.o.Dir, l.ID)
	rec := record{Launch: *l, OOMBase: cgroup.OOMKills(l.Cgroups)}
	rec.Argv, rec.Env = nil, nil
	return &container{
		m: m, dir: dir, rec: rec, pidfd: -1, stdin: -1, tty: -1, told: make(chan struct{}), launched: make(chan struct{}),
		out: m.newOutput(dir, l),
	}
}

// save writes the record, atomically. The caller holds mu or is alone.
func (c *container) save() error { return writeJSON(filepath.Join(c.dir, recordName), &c.rec) }

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

// makePipes makes the named pipes this container needs.
func (c *container) makePipes() error {
	for _, name := range c.pipeNames() {
		if err := sys.MakeFIFO(filepath.Join(c.dir, name), c.rec.UID, c.rec.GID); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) pipeNames() []string {
	if !c.rec.Stdio || c.rec.Terminal {
		return nil
	}
	if c.rec.Stdin {
		return []string{"stdout", "stderr", "stdin"}
	}
	return []string{"stdout", "stderr"}
}

// openPipes opens our ends. The container's must be open by then, or be known
// to have been.
func (c *container) openPipes() error {
	for _, name := range c.pipeNames() {
		if name == "stdin" {
			continue
		}
		fd, err := sys.OpenFIFO(filepath.Join(c.dir, name), unix.O_RDONLY, false)
		if err != nil {
			return err
		}
		c.streams = append(c.streams, newStream(c.out, fd, name))
	}
	if c.rec.Stdin && !c.rec.Terminal && c.rec.Stdio && !c.rec.StdinShut {
		fd, err := sys.OpenFIFO(filepath.Join(c.dir, "stdin"), unix.O_WRONLY, false)
		if err != nil && !errors.Is(err, unix.ENXIO) { // the container may have closed its end
			return err
		}
		c.stdin = fd
	}
	return nil
}

// setTTY takes over the pty master: it is stdin and stdout at once.
func (c *container) setTTY(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("set terminal non-blocking: %w", err)
	}
	// The stream owns fd; writers and the resizer use a number of their own.
	second, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("duplicate terminal: %w", err)
	}
	st := newStream(c.out, fd, "stdout")
	st.tty = true
	c.tty = second
	c.streams = append(c.streams, st)
	return nil
}

// startStreams begins to read.
func (c *container) startStreams() error {
	for _, st := range c.streams {
		if err := st.start(c.m.poll); err != nil {
			return err
		}
	}
	return nil
}

// descriptors returns duplicates of what a client should hold for the case that
// this monitor dies. The caller closes them.
func (c *container) descriptors() (kinds []fdKind, fds []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add := func(kind fdKind, fd int) {
		if fd < 0 {
			return
		}
		if dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			kinds, fds = append(kinds, kind), append(fds, dup)
		}
	}
	if c.ended {
		return nil, nil
	}
	add(fdPidfd, c.pidfd)
	add(fdStdin, c.stdin)
	add(fdTTY, c.tty)
	for _, st := range c.streams {
		if !st.tty {
			add(fdKind(st.name), st.descriptor())
		}
	}
	return kinds, fds
}

func (st *stream) descriptor() int {
	if !st.mu.TryLock() {
		return st.fd // being drained: it is open, and finish comes only after ended was set
	}
	defer st.mu.Unlock()
	if st.closed {
		return -1
	}
	return st.fd
}

// closeStdin closes the monitor's write end for good.
func (c *container) closeStdin() {
	if c.shutStdin() {
		c.m.broadcast(&packet{Op: opStdinClosed, ID: c.rec.ID})
	}
}

// shutStdin reports whether there was a pipe to close.
func (c *container) shutStdin() bool {
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
		c.m.log.Warn("container state not saved", "container", c.rec.ID, "err", err)
	}
	return true
}

// release closes everything but output, which drain and discard close.
func (c *container) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watch != nil {
		c.watch.stop()
		c.watch = nil
	}
	for _, fd := range []*int{&c.pidfd, &c.stdin, &c.tty} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// discard is the teardown of a launch that failed and of a forgotten container.
func (c *container) discard() {
	for _, st := range c.streams {
		st.abandon()
	}
	c.out.close()
	c.release()
	c.m.store.forget(c.rec.ID)
	if err := os.RemoveAll(c.dir); err != nil {
		c.m.log.Warn("container directory not removed", "container", c.rec.ID, "err", err)
	}
}

// abandon closes the stream unread.
func (st *stream) abandon() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return
	}
	st.closed = true
	if st.watch != nil {
		st.watch.stop()
	}
	unix.Close(st.fd)
}
