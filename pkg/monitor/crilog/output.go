// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cri-shim/cri-shim/pkg/monitor/poll"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// logPatience is how long the opening of a log, and the last output of a
// container, may take.
const logPatience = 5 * time.Second

// Target says what the log of a container is.
type Target struct {
	ID    string
	Dir   string // of the container's state, where unfinished lines are kept
	Path  string // of the log; "" throws output away
	Below string // the pod's log directory: below it no symbolic link is followed; "": not known
}

// Output is the log side of a container, shared by its streams: one batch at a
// time, so that the journal's idea of the log's end is true.
type Output struct {
	id      string
	journal *Journal
	over    atomic.Bool // nothing is written any more
	streams []*Stream
	closed  func()     // called when the files are closed
	mu      sync.Mutex // guards what follows; held across writes to the log
	log     logFile
	tails   tailFile
}

// NewOutput makes an output without streams; Open or Recover opens its log.
// closed is called when its files are closed.
func NewOutput(t Target, j *Journal, log *slog.Logger, closed func()) *Output {
	return &Output{
		id: t.ID, journal: j, closed: closed,
		log: logFile{path: t.Path, dir: t.Below, fd: -1, log: log}, tails: tailFile{path: t.Dir + "/tail", fd: -1},
	}
}

// writeLog frames content into the log and returns its unfinished line. The
// caller holds mu.
func (o *Output) writeLog(content []byte, name string, at time.Time, buf []byte) (rest []byte) {
	if o.log.fd < 0 {
		return nil
	}
	var room [64]byte
	prefix := linePrefix(room[:0], at, name)
	for {
		lines, used, more := frame(buf[:0], content, prefix)
		content = content[used:]
		if len(lines) > 0 {
			o.log.write(lines)
		}
		if !more {
			return content
		}
	}
}

// Reopen goes on in a new log file.
func (o *Output) Reopen() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over.Load() {
		return wire.NotFound(fmt.Errorf("reopen log of %s: it has ended", o.id))
	}
	if o.log.path == "" {
		return nil
	}
	if o.log.fd < 0 {
		return o.log.open()
	}
	return o.log.reopen()
}

// Open opens the log. It waits for the log's file system no longer than
// logPatience: the error is of class Unavailable then.
func (o *Output) Open(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, logPatience, fmt.Errorf("no answer for %s, its file system may hang", logPatience))
	defer cancel()
	var err error
	select {
	case <-o.begin(func() { err = o.log.open() }):
		return err
	case <-ctx.Done():
		return wire.Unavailable(fmt.Errorf("open log %s: %w", o.log.path, context.Cause(ctx)))
	}
}

// Add makes a stream of fd, which it takes over; name is "stdout" or "stderr".
// The set of streams is the caller's to guard, and does not change any more when
// Finish or Abandon is called.
func (o *Output) Add(fd int, name string, terminal bool) *Stream {
	st := &Stream{out: o, fd: fd, name: name, stderr: name == "stderr", tty: terminal}
	o.streams = append(o.streams, st)
	return st
}

// Streams are those that were added.
func (o *Output) Streams() []*Stream { return o.streams }

// Start begins to read all streams.
func (o *Output) Start(p *poll.Poller) error {
	for _, st := range o.streams {
		if err := st.Start(p); err != nil {
			return err
		}
	}
	return nil
}

// Finish waits until everything that was written is in the log, for a bounded
// time: neither a client that reads slowly nor a log whose file system hangs holds
// it up. What could not be written then is, should the file system answer.
func (o *Output) Finish() {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for _, st := range o.streams {
			st.finish()
			st.endSinks()
		}
		o.Close()
	}()
	if within(drained, logPatience) {
		return
	}
	for _, st := range o.streams {
		st.endSinks()
	}
	if !within(drained, sinkPatience*time.Millisecond) {
		o.log.log.Error("container log incomplete at exit, its file system may hang",
			"container", o.id, "path", o.log.path)
	}
}

// Abandon ends the output and leaves unread what was written.
func (o *Output) Abandon() {
	for _, st := range o.streams {
		st.abandon()
	}
	o.Close()
}

// AwaitIdle fails when the log's file system does not answer within d.
func (o *Output) AwaitIdle(d time.Duration) error {
	if within(o.idle(), d) {
		return nil
	}
	return wire.Unavailable(fmt.Errorf("log of %s does not answer, its file system may hang", o.id))
}

// within waits for done, but no longer than d.
func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// begin does the first work on the log. Its file system may hang: the work is not
// waited for, but writers wait until it is done, which is what the result
// tells.
func (o *Output) begin(work func()) (done <-chan struct{}) {
	ended := make(chan struct{})
	o.mu.Lock()
	go func() {
		defer close(ended)
		defer o.mu.Unlock()
		work()
	}()
	return ended
}

// await returns when no write to the log is under way.
func (o *Output) await() {
	o.mu.Lock()
	defer o.mu.Unlock()
}

// idle is closed once no write to the log is under way.
func (o *Output) idle() <-chan struct{} {
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		o.await()
	}()
	return idle
}

// Close ends the output, now or once the log's file system answers.
func (o *Output) Close() {
	o.over.Store(true)
	if o.mu.TryLock() {
		o.closeFiles()
		return
	}
	go func() {
		o.mu.Lock()
		o.closeFiles()
	}()
}

func (o *Output) closeFiles() {
	defer o.mu.Unlock()
	o.log.close()
	o.tails.close()
	o.closed()
}
