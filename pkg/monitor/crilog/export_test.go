// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Seams for the external tests.
var (
	Frame      = frame
	LinePrefix = linePrefix
)

const (
	MaxLine = maxLine
	ReadMax = readMax
)

// Recorder is a stream with its journal and log, without a monitor around.
type Recorder struct {
	dir     string
	journal *Journal
	st      *Stream
}

// NewRecorder reads from fd.
func NewRecorder(dir, logPath string, fd int) (*Recorder, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	j, err := OpenJournal(dir+"/journal", log)
	if err != nil {
		return nil, err
	}
	out := NewOutput(Target{ID: "c", Dir: dir, Path: logPath}, j, log, func() {})
	if err := out.log.open(); err != nil {
		return nil, err
	}
	return &Recorder{dir: dir, journal: j, st: out.Add(fd, "stdout", false)}, nil
}

// Start makes the journal usable, dropping what a crash left.
func (r *Recorder) Start() error { return r.journal.start() }

// Drain moves everything that can be read.
func (r *Recorder) Drain() {
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	for more := true; more; {
		_, more = r.st.drain(drainRounds)
	}
}

// Flush ends the stream's unfinished line.
func (r *Recorder) Flush() {
	s := r.journal.get()
	r.st.flush(s)
	r.journal.put(s)
}

// Step is where Crash stops.
type Step int

// The instants of a batch at which a monitor may be killed.
const (
	BeforeRead Step = iota
	AfterRead
	AfterReadNoted
	HalfWritten
	Written
	TailKept
)

// Crash does one batch of want bytes up to step and forgets everything that a
// killed process forgets. cut is how much of the log write happens.
func (r *Recorder) Crash(step Step, want, cut int, flush bool) {
	o, st := r.st.out, r.st
	st.findTail()
	s := r.journal.get()
	b := batch{
		id: "c", tail: st.tail, want: want, at: time.Now(), flush: flush,
		logEnd: o.log.end, logIno: o.log.ino, logDev: o.log.dev,
	}
	if st.tail > 0 {
		if err := o.tails.load(false, s.mem[:st.tail]); err != nil {
			panic(err)
		}
	}
	s.begin(&b)
	if step == BeforeRead {
		return
	}
	n := 0
	if want > 0 {
		n, _ = unix.Read(st.fd, s.mem[b.tail:b.tail+want])
	}
	if step == AfterRead {
		return
	}
	s.readDone(n)
	lines, rest := reframe(b, s.mem[:b.tail+n], "stdout")
	switch step {
	case HalfWritten:
		o.log.write(lines[:min(cut, len(lines))])
	case Written, TailKept:
		o.log.write(lines)
	}
	if step == TailKept {
		st.keepTail(rest)
	}
}

// Successor is the recorder of the next monitor, after its recovery.
func (r *Recorder) Successor() (*Recorder, error) {
	next, err := NewRecorder(r.dir, r.st.out.log.path, r.st.fd)
	if err != nil {
		return nil, err
	}
	for _, s := range next.journal.pending() {
		if b, content, ok := s.recovered(); ok {
			if err := next.st.out.finishBatch(b, content); err != nil {
				return nil, err
			}
		}
	}
	r.Close()
	return next, next.Start()
}

// Close lets go of all files but the one that is read.
func (r *Recorder) Close() {
	r.st.out.Close()
	_ = unix.Munmap(r.journal.mem)
	unix.Close(r.journal.fd)
}
