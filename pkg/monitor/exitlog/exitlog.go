// SPDX-License-Identifier: Apache-2.0

// Package exitlog is the durable list of exits that the daemon has not acknowledged yet: a
// file of JSON lines, appended with one write each, one writer at a time.
//
//   - An exit has its number, and is in the file, before it is reported;
//     who is told is told in the order of the numbers.
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

	mu    sync.Mutex // guards what follows
	file  *os.File
	size  int64
	next  uint64
	acked uint64
	live  []wire.Exit // not acknowledged, by Seq
}

// exitLine is one line of the file: the first has Epoch, each other one field.
type exitLine struct {
	Epoch string     `json:"epoch,omitempty"`
	Exit  *wire.Exit `json:"exit,omitempty"`
	Ack   uint64     `json:"ack,omitempty"`  // everything up to here
	Next  uint64     `json:"next,omitempty"` // written by compaction
	Drop  uint64     `json:"drop,omitempty"` // this one alone
}

// Open reads the log at path, or begins one. A line that does not parse
// is a write cut off by a full file system: it is skipped with a message.
func Open(path string, log *slog.Logger) (*Log, error) {
	l := &Log{path: path, log: log, next: 1}
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read exit log: %w", err)
	}
	l.parse(raw)
	if l.epoch == "" {
		l.epoch = wire.NewName()
	}
	if err := l.compact(); err != nil {
		return nil, err
	}
	return l, nil
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
		return fmt.Errorf("compact exit log: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size = f, 0
	if st, err := f.Stat(); err == nil {
		l.size = st.Size()
	}
	return nil
}

// Append gives e its sequence number, writes it down and calls publish in order
// of the numbers. Should the write fail the exit is published nevertheless.
func (l *Log) Append(e wire.Exit, publish func(wire.Exit)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq = l.next
	l.next++
	l.live = append(l.live, e)
	l.write(exitLine{Exit: &e})
	publish(e)
}

// AwaitPublished returns once every exit that has a number was given out.
func (l *Log) AwaitPublished() {
	l.mu.Lock()
	defer l.mu.Unlock()
}

func (l *Log) write(line exitLine) {
	b, err := json.Marshal(line)
	if err == nil {
		var n int
		n, err = l.file.Write(append(b, '\n'))
		if err != nil && n > 0 { // don't let the next line hang on to half of this one
			_ = unix.Ftruncate(int(l.file.Fd()), l.size)
			n = 0
		}
		l.size += int64(n)
	}
	if err != nil {
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
	if l.size < compactAt {
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
