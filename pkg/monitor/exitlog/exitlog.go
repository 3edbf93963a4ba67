// SPDX-License-Identifier: Apache-2.0

// Package exitlog is the durable list of exits that the daemon has not acknowledged yet: a
// file of JSON lines, appended with one write each, one writer at a time.
//
//   - An exit has its number, and is in the file unless that can't be written,
//     before it is reported; who is told is told in the order of the numbers.
//   - No number is given out twice, by whichever process since the node started.
//   - It is given out again until it is acknowledged.
//
// It outlives the monitor, not the node's reboot (the directory is a tmpfs), so
// nothing is synced: after a reboot no container is left whose code could matter.
package exitlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// compactAt is the size of the exit log from which it is rewritten without what
// was acknowledged.
const compactAt = 256 << 10

// Log of one node. Its methods may be called from any goroutine.
type Log struct {
	path  string
	epoch string // names this series of sequence numbers
	log   *slog.Logger

	mu   sync.Mutex // guards what follows
	file *os.File
	size int64
	torn bool // the file's last line has no end
	// behind: a line is missing in the file, which is written anew as soon as that can be done.
	behind bool
	next   uint64
	acked  uint64
	live   []wire.Exit // not acknowledged, by Seq
}

// exitLine is one line of the file: the first has Epoch, the second what
// compaction knows, Next and Ack, and each other one field.
type exitLine struct {
	Epoch string     `json:"epoch,omitempty"`
	Exit  *wire.Exit `json:"exit,omitempty"`
	Ack   uint64     `json:"ack,omitempty"`  // everything up to here
	Next  uint64     `json:"next,omitempty"` // written by compaction
	Drop  uint64     `json:"drop,omitempty"` // this one alone
}

// Open reads the log at path, or begins one. A line that does not parse
// is a write cut off by a full file system: it is skipped with a message. When
// that is still full the log goes on in the file that is there; the error is of
// one that cannot be read or begun.
func Open(path string, log *slog.Logger) (*Log, error) {
	l := &Log{path: path, log: log, next: 1}
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read exit log: %w", err)
	}
	l.parse(raw)
	found := l.epoch != ""
	if found {
		l.next = max(l.next, numberNow())
	} else {
		l.epoch = wire.NewName()
	}
	err = l.compact()
	if err != nil && found {
		log.Error("exit log not compacted", "err", err)
		err = l.goOn(raw)
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// numberNow is a number that no process before this one came to: one that could
// not write an exit down has given its number out all the same, and a client
// takes it for a repetition when it comes again. So a log that another process
// wrote goes on at the microseconds since the node started, which are ahead of
// one exit in each.
func numberNow() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return uint64(t.Nano() / 1000)
}

// goOn appends to the file as it is: raw. A line that a cut-off write left without
// its end gets one.
func (l *Log) goOn(raw []byte) error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("open exit log: %w", err)
	}
	l.file, l.size = f, int64(len(raw))
	l.torn = !bytes.HasSuffix(raw, []byte("\n"))
	return nil
}

// Epoch names this series of sequence numbers.
func (l *Log) Epoch() string { return l.epoch }

func (l *Log) parse(raw []byte) {
	for line := range bytes.Lines(raw) {
		var e exitLine
		if err := json.Unmarshal(line, &e); err != nil {
			l.log.Warn("exit log line skipped", "path", l.path, "err", err)
			continue
		}
		switch {
		case e.Epoch != "":
			l.epoch = e.Epoch
		case e.Exit != nil:
			l.live = append(l.live, *e.Exit)
			l.next = max(l.next, e.Exit.Seq+1)
		case e.Drop != 0:
			l.live = slices.DeleteFunc(l.live, func(x wire.Exit) bool { return x.Seq == e.Drop })
		}
		l.acked = max(l.acked, e.Ack)
		l.next = max(l.next, e.Next, e.Ack+1)
	}
	l.live = slices.DeleteFunc(l.live, func(x wire.Exit) bool { return x.Seq <= l.acked })
}

// compact writes a new file with what is live and puts it in place. The caller
// holds mu, or is alone.
func (l *Log) compact() error {
	tmp := l.path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("compact exit log: %w", err)
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	err = errors.Join(enc.Encode(exitLine{Epoch: l.epoch}), enc.Encode(exitLine{Next: l.next, Ack: l.acked}))
	for i := range l.live {
		err = errors.Join(err, enc.Encode(exitLine{Exit: &l.live[i]}))
	}
	err = errors.Join(err, w.Flush())
	if err == nil {
		err = os.Rename(tmp, l.path)
	}
	if err != nil {
		f.Close()
		_ = os.Remove(tmp) // the space it takes is wanted
		return fmt.Errorf("compact exit log: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size, l.torn, l.behind = f, 0, false, false
	if st, err := f.Stat(); err == nil {
		l.size = st.Size()
	}
	return nil
}

// Append gives e its sequence number, writes it down and calls publish in order
// of the numbers. Should the write fail the exit is published nevertheless, and
// written afterwards, for publish may have freed the space of its container, or
// with what comes next.
func (l *Log) Append(e wire.Exit, publish func(wire.Exit)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq = l.next
	l.next++
	l.live = append(l.live, e)
	l.write(exitLine{Exit: &e})
	publish(e)
	if l.behind {
		l.shrink()
	}
}

// AwaitPublished returns once every exit that has a number was given out.
func (l *Log) AwaitPublished() {
	l.mu.Lock()
	defer l.mu.Unlock()
}

func (l *Log) write(line exitLine) {
	b, err := json.Marshal(line)
	if err == nil {
		b = append(b, '\n')
		if l.torn {
			b = append([]byte("\n"), b...)
		}
		var n int
		n, err = l.file.Write(b)
		switch {
		case err == nil:
			l.size, l.torn = l.size+int64(n), false
		case n > 0: // don't let the next line hang on to half of this one
			l.torn = l.file.Truncate(l.size) != nil || l.torn
		}
	}
	if err != nil {
		l.behind = true
		l.log.Error("exit log not written", "path", l.path, "err", err)
	}
}

// Ack forgets every exit up to seq.
func (l *Log) Ack(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq = min(seq, l.next-1)
	if seq <= l.acked {
		return
	}
	l.acked = seq
	l.live = slices.DeleteFunc(l.live, func(e wire.Exit) bool { return e.Seq <= seq })
	l.write(exitLine{Ack: seq})
	l.shrink()
}

// Drop forgets the exits of one container.
func (l *Log) Drop(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = slices.DeleteFunc(l.live, func(e wire.Exit) bool {
		if e.ID == id {
			l.write(exitLine{Drop: e.Seq})
		}
		return e.ID == id
	})
	l.shrink()
}

func (l *Log) shrink() {
	if l.size < compactAt && !l.behind {
		return
	}
	if err := l.compact(); err != nil {
		l.log.Error("exit log not compacted", "err", err)
	}
}

// Replay calls f for every exit that is not acknowledged, in order, and then
// join, with no exit able to come in between.
func (l *Log) Replay(f func(wire.Exit), join func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.live {
		f(e)
	}
	join()
}

// Has reports whether the exit of this very process is on record.
func (l *Log) Has(id string, pid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.live, func(e wire.Exit) bool { return e.ID == id && e.Pid == pid })
}
