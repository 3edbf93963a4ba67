// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Pending are the batches that a killed monitor was in the middle of, of one
// container.
type Pending []*slot

// Recover makes the journal usable. The batches of known containers that were
// under way are held for Output.Recover; all others are dropped.
func (j *Journal) Recover(known func(id string) bool) (map[string]Pending, error) {
	held := map[string]Pending{}
	for _, s := range j.pending() {
		if b, _, ok := s.recovered(); ok && known(b.id) {
			held[b.id] = append(held[b.id], s)
		}
	}
	return held, j.start(slices.Concat(slices.Collect(maps.Values(held))...)...)
}

// pending returns the slots a killed monitor left in use. Holes of the file are
// not touched: reading them would allocate them.
func (j *Journal) pending() []*slot {
	var left []*slot
	for _, s := range j.slots {
		var head [8]byte
		if _, err := unix.Pread(j.fd, head[:], int64(s.index*slotSize)); err != nil {
			continue
		}
		if binary.NativeEndian.Uint32(head[:4]) != slotFree && binary.NativeEndian.Uint32(head[4:]) == slotMagic {
			left = append(left, s)
		}
	}
	return left
}

// start makes slots available, and drops what was pending in them. Those that are
// held are available later, by giveBack.
func (j *Journal) start(held ...*slot) error {
	for _, s := range j.slots {
		if slices.Contains(held, s) {
			continue
		}
		j.cold = append(j.cold, s)
		if err := j.release(s); err != nil {
			return err
		}
	}
	for range min(warmSlots, len(j.cold)) {
		s, err := j.warm()
		if err != nil {
			j.log.Error("journal slot not allocated, output in flight is lost should the monitor be killed", "err", err)
			s = j.loose()
		}
		j.free <- s
	}
	return nil
}

// giveBack makes a slot available whose batch is finished.
func (j *Journal) giveBack(s *slot) {
	s.done()
	s.out = make([]byte, 0, outSize)
	j.put(s)
}

// recovered returns what a killed monitor left in the slot: the batch and its
// content, tail and read bytes. ok is false when the read did not happen, or
// the header makes no sense.
func (s *slot) recovered() (b batch, content []byte, ok bool) {
	h := s.header
	if h.tail > maxLine || h.want > readMax || h.got > h.want || h.idLen > maxID {
		return b, nil, false
	}
	b = batch{
		id: string(h.id[:h.idLen]), stderr: h.stderr != 0, flush: h.flush != 0, tail: int(h.tail), want: int(h.want),
		at: time.Unix(0, h.time), logEnd: h.logEnd, logIno: h.logIno, logDev: h.logDev,
	}
	got := int(h.got)
	if h.state == slotReading {
		if s.untouched() {
			return b, nil, false
		}
		got = b.want
	}
	return b, s.mem[:b.tail+got], true
}

// untouched reports whether the sentinel is still there.
func (s *slot) untouched() bool {
	h := s.header
	end := s.mem[:h.tail+h.want]
	at := max(int(h.tail), len(end)-sentinelLen)
	return string(end[at:]) == string(h.sentinel[:len(end)-at])
}

// Recover opens the log and brings it to where it would be had the dead monitor
// finished its batches, and the unfinished lines with it. It does not wait for the
// log's file system; streams that are read meanwhile do.
func (o *Output) Recover(p Pending) {
	o.begin(func() {
		if err := o.log.open(); err != nil {
			o.log.log.Error("container log not opened, output is lost until it is reopened", "container", o.id, "err", err)
		}
		for _, s := range p {
			b, content, _ := s.recovered()
			if err := o.finishBatch(b, content); err != nil {
				o.log.log.Error("container log may have lost a batch", "container", o.id, "err", err)
			}
			o.journal.giveBack(s)
		}
	})
}

// finishBatch frames the batch again, which gives the bytes it gave before, and
// appends those that did not get into the file.
func (o *Output) finishBatch(b batch, content []byte) error {
	if o.log.path == "" {
		return nil
	}
	name := "stdout"
	if b.stderr {
		name = "stderr"
	}
	lines, rest := reframe(b, content, name)
	log := &o.log
	if log.fd < 0 || b.logIno != log.ino || b.logDev != log.dev { // rotated meanwhile
		old, err := o.log.openAs(b.logDev, b.logIno)
		if err == nil {
			defer old.close()
			log = old
		}
	}
	if b.logIno == log.ino && b.logDev == log.dev {
		written := min(max(log.end-b.logEnd, 0), int64(len(lines)))
		lines = lines[written:]
	}
	log.write(lines)
	return o.tails.store(b.stderr, rest)
}

func reframe(b batch, content []byte, name string) (lines, rest []byte) {
	prefix := linePrefix(nil, b.at, name)
	if b.flush {
		return appendLine(nil, prefix, 'P', content), nil
	}
	buf := make([]byte, 0, readMax+maxLine+lineExtra)
	for {
		part, used, more := frame(buf[:0], content, prefix)
		lines = append(lines, part...)
		content = content[used:]
		if !more {
			return lines, content
		}
	}
}
