// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/poll"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// drainRounds bounds how long one stream keeps a slot while others wait.
const drainRounds = 16

// A stream that had less than restBelow bytes is left alone for restTime before
// the next wake-up: a program that writes line by line then fills the pipe
// instead of waking us for each line, which is worth twice the throughput at a
// third of the processor time. One that writes in bulk must not wait, for the
// pipe is soon full.
const (
	restTime  = 100 * time.Microsecond
	restBelow = 4 << 10
)

// Stream is what a container writes to one descriptor. At most one goroutine
// drains it: the poller's registration is one-shot, and mu does the rest.
type Stream struct {
	out    *Output
	name   string // "stdout" or "stderr"
	stderr bool
	tty    bool
	ready  *poll.Registration // once it is read

	mu sync.Mutex // guards what follows; held while draining
	// fd is what is read, -1 once the stream has ended. It changes with both locks held, so that either keeps it open.
	fd   int
	fdMu sync.Mutex  // held for a moment only
	rest *time.Timer // before the registration is armed again
	tail int         // bytes of an unfinished line, in out.tails; valid once tailKnown
	// tailKnown: a monitor before this one may have left a tail.
	tailKnown bool

	sinkMu sync.Mutex // guards what follows
	sinks  []*Sink
	over   bool // the container has ended: sinks end when they come
}

// Name is "stdout" or "stderr"; a terminal's is "stdout".
func (st *Stream) Name() string { return st.name }

// Terminal tells whether what is read is a pty master.
func (st *Stream) Terminal() bool { return st.tty }

// Start begins to read.
func (st *Stream) Start(p *poll.Poller) error {
	st.mu.Lock() // a hang-up may be reported before we return
	defer st.mu.Unlock()
	r, err := p.Add(st.fd, func(events uint32) { go st.serve(events) })
	if err != nil {
		return err
	}
	st.ready = r
	r.Arm(unix.EPOLLIN)
	return nil
}

// serve drains a stream the poller found readable, for a bounded time.
func (st *Stream) serve(events uint32) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.fd < 0 {
		return
	}
	n, more := st.drain(drainRounds)
	over := !more && events&(unix.EPOLLHUP|unix.EPOLLERR) != 0
	if over && !st.tty {
		// No writer is left and none can come: the pipes are known to the container only by descriptor.
		st.ready.Stop()
		return
	}
	switch {
	case over: // until the terminal's next opener writes
		st.ready.ArmEdge(unix.EPOLLIN)
	case n >= restBelow:
		st.ready.Arm(unix.EPOLLIN)
	case st.rest == nil:
		st.rest = time.AfterFunc(restTime, func() { st.ready.Arm(unix.EPOLLIN) })
	default:
		st.rest.Reset(restTime)
	}
}

// finish drains everything there is, then the unfinished line, and closes.
func (st *Stream) finish() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.fd < 0 {
		return
	}
	for more := true; more; {
		_, more = st.drain(drainRounds)
	}
	if st.unfinished() {
		s := st.out.journal.get()
		st.flush(s)
		st.out.journal.put(s)
	}
	st.close()
}

// close ends the stream. The caller holds mu.
func (st *Stream) close() {
	if st.ready != nil {
		st.ready.Stop()
	}
	st.fdMu.Lock()
	defer st.fdMu.Unlock()
	unix.Close(st.fd)
	st.fd = -1
}

// drain reads until there is nothing or rounds are over: more says which, total
// how many bytes it was. The caller holds mu.
func (st *Stream) drain(rounds int) (total int, more bool) {
	n := st.readable()
	if n == 0 {
		return 0, false
	}
	st.out.await() // a log that hangs takes one slot, or none
	s := st.out.journal.get()
	defer st.out.journal.put(s)
	for range rounds {
		got := st.step(s, min(n, readMax))
		total += got
		if n = st.readable(); n == 0 || got == 0 {
			return total, false
		}
	}
	return total, true
}

// DuplicateSource returns a duplicate of what is read, for the caller to close. unix.EBADF:
// the stream has ended, so there is nothing left to read. It does not wait for the log.
func (st *Stream) DuplicateSource() (int, error) {
	st.fdMu.Lock()
	defer st.fdMu.Unlock()
	return sys.Duplicate(st.fd)
}

// abandon closes the stream unread.
func (st *Stream) abandon() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.fd >= 0 {
		st.close()
	}
}

func (st *Stream) readable() int {
	n, err := sys.Readable(st.fd)
	if err == nil && n == 0 && st.tty {
		// What the other side wrote may still be on its way through the line discipline; poll pushes it.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(st.fd), Events: unix.POLLIN}}, 0)
		n, err = sys.Readable(st.fd)
	}
	if err != nil {
		return 0
	}
	return n
}

// step moves want bytes to the log and to who is attached. 0: there was nothing
// to read after all.
func (st *Stream) step(s *slot, want int) int {
	data := st.record(s, want)
	if len(data) > 0 {
		st.fanOut(data)
	}
	return len(data)
}

// record reads want bytes and writes them to the log, as one step for the
// journal. The result is what was read; it stays valid as long as s is held.
func (st *Stream) record(s *slot, want int) []byte {
	o := st.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over.Load() {
		return nil
	}
	st.findTail()
	b := st.batch(want)
	if st.tail > 0 {
		if err := o.tails.load(st.stderr, s.mem[:st.tail]); err != nil {
			o.log.log.Error("unfinished log line lost", "container", o.id, "err", err)
			st.tail, b.tail = 0, 0
		}
	}
	s.begin(&b)
	n, err := unix.Read(st.fd, s.mem[b.tail:b.tail+want])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(st.fd, s.mem[b.tail:b.tail+want])
	}
	if err != nil || n <= 0 { // EIO: a terminal without an open slave
		s.done()
		return nil
	}
	s.readDone(n)
	content := s.mem[:b.tail+n]
	rest := o.writeLog(content, st.name, b.at, s.out)
	st.keepTail(rest)
	s.done()
	return content[b.tail:]
}

// flush writes the unfinished line as a P record. The caller holds mu.
func (st *Stream) flush(s *slot) {
	o := st.out
	o.mu.Lock()
	defer o.mu.Unlock()
	st.findTail()
	b := st.batch(0)
	b.flush = true
	if err := o.tails.load(st.stderr, s.mem[:st.tail]); err != nil {
		o.log.log.Error("unfinished log line lost", "container", o.id, "err", err)
		st.tail = 0
		return
	}
	s.begin(&b)
	s.readDone(0)
	o.log.write(appendLine(s.out, linePrefix(nil, b.at, st.name), 'P', s.mem[:st.tail]))
	st.keepTail(nil)
	s.done()
}

// findTail looks once for what a monitor before this one left. The caller holds
// both locks.
func (st *Stream) findTail() {
	if !st.tailKnown {
		st.tail, st.tailKnown = st.out.tails.length(st.stderr), true
	}
}

// unfinished reports whether there is a tail. The caller holds mu.
func (st *Stream) unfinished() bool {
	st.out.mu.Lock()
	defer st.out.mu.Unlock()
	st.findTail()
	return st.tail > 0 && !st.out.over.Load()
}

func (st *Stream) batch(want int) batch {
	l := &st.out.log
	return batch{
		id: st.out.id, stderr: st.stderr, tail: st.tail, want: want, at: time.Now(),
		logEnd: l.end, logIno: l.ino, logDev: l.dev,
	}
}

// keepTail makes rest what the next batch begins with.
func (st *Stream) keepTail(rest []byte) {
	if len(rest) == 0 && st.tail == 0 {
		return
	}
	if err := st.out.tails.store(st.stderr, rest); err != nil {
		st.out.log.log.Error("unfinished log line lost", "container", st.out.id, "err", err)
		rest = nil
	}
	st.tail = len(rest)
}
