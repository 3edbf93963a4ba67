// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// The journal makes "read from the pipe" and "written to the log" one step for
// a monitor that may be killed between any two instructions. Every batch is
// read straight into a slot of a file mapped MAP_SHARED, which outlives the
// process, after the slot's header says what the batch is: whose, how many
// bytes, and where in which log file it will go. The only thing the header
// can't say is whether read(2) was done, because the process may be killed
// inside it; so the end of the area to be read into is filled with random bytes
// first. The next monitor finds them (not read: the bytes are still in the
// pipe) or does not (read: the bytes are in the slot), frames the batch again,
// to the same bytes since the time is in the header too, and appends what the
// log lacks of them.
//
// A pipe read is one step for signals: SIGKILL takes effect before or after it.
//
// On a full file system a monitor may begin without a slot. Loose ones, in memory
// of its own, stand in then: output goes on, and only what is in flight when the
// monitor is killed is lost.
const (
	maxSlots  = 64 // batches in flight at once; more wait
	warmSlots = 2  // stay allocated while idle

	readMax  = 64 << 10
	slotData = 4096 // the tail of earlier batches, then what is read
	slotSize = slotData + maxLine + readMax

	outSize = readMax + maxLine + lineExtra

	sentinelLen = 8
	maxID       = 128
)

// Slot states. Stores to the state are atomic, so they stay in program order
// with the other fields, which is all a killed process needs.
const (
	slotFree    uint32 = iota
	slotReading        // want bytes may or may not have been read
	slotRead           // got bytes were read
)

// slotHeader is at the start of a slot; fields keep this order and size as long
// as an older monitor's journal may be found (slotMagic).
type slotHeader struct {
	state    uint32
	magic    uint32
	stderr   uint32 // 1: stderr, 0: stdout
	flush    uint32 // 1: the end of the stream: the tail goes too
	tail     uint32 // bytes before what is read
	want     uint32
	got      uint32
	idLen    uint32
	logEnd   int64 // size of the log file before this batch
	logIno   uint64
	logDev   uint64
	time     int64 // nanoseconds since 1970
	sentinel [sentinelLen]byte
	id       [maxID]byte
}

const slotMagic = 0x63726901

type slot struct {
	index  int // looseSlot: not in the file
	header *slotHeader
	mem    []byte // tail and data
	out    []byte // framed lines on their way to the log; not shared
}

const looseSlot = -1

// Journal hands out slots. A slot belongs to one goroutine at a time.
type Journal struct {
	log   *slog.Logger
	fd    int
	mem   []byte
	free  chan *slot
	mu    sync.Mutex // guards cold
	cold  []*slot    // never used or given back to the file system
	slots []*slot
}

// OpenJournal maps the journal at path. Recover comes before the first stream.
func OpenJournal(path string, log *slog.Logger) (*Journal, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j := &Journal{log: log, fd: fd, free: make(chan *slot, maxSlots+warmSlots)}
	if err := unix.Ftruncate(fd, maxSlots*slotSize); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("size journal: %w", err)
	}
	j.mem, err = unix.Mmap(fd, 0, maxSlots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map journal: %w", err)
	}
	for i := range maxSlots {
		j.slots = append(j.slots, newSlot(i, j.mem[i*slotSize:(i+1)*slotSize]))
	}
	return j, nil
}

func newSlot(index int, mem []byte) *slot {
	return &slot{index: index, mem: mem[slotData:], header: (*slotHeader)(unsafe.Pointer(&mem[0]))}
}

// warm takes a slot that has no memory yet and allocates it, so that writing to
// the mapping can't run into a full file system (which would be SIGBUS).
func (j *Journal) warm() (*slot, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.cold) == 0 {
		return nil, wire.ResourceExhausted(errors.New("all journal slots are in use"))
	}
	s := j.cold[0]
	if err := unix.Fallocate(j.fd, 0, int64(s.index*slotSize), slotSize); err != nil {
		return nil, fmt.Errorf("allocate journal slot: %w", err)
	}
	j.cold = j.cold[1:]
	s.out = make([]byte, 0, outSize)
	return s, nil
}

// loose makes a slot without the file.
func (j *Journal) loose() *slot {
	s := newSlot(looseSlot, make([]byte, slotSize))
	s.out = make([]byte, 0, outSize)
	return s
}

func (j *Journal) release(s *slot) error {
	s.out = nil
	err := unix.Fallocate(j.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(s.index*slotSize), slotSize)
	if err != nil {
		return fmt.Errorf("release journal slot: %w", err)
	}
	return nil
}

// get waits for a slot.
func (j *Journal) get() *slot {
	select {
	case s := <-j.free:
		return s
	default:
	}
	if s, err := j.warm(); err == nil {
		return s
	}
	return <-j.free
}

// put gives a slot back; beyond the warm ones its memory goes back as well. A loose
// one is replaced as soon as the file system has room.
func (j *Journal) put(s *slot) {
	if s.index == looseSlot {
		if len(j.free) >= warmSlots {
			return
		}
		if warm, err := j.warm(); err == nil {
			j.log.Info("journal slot allocated after all")
			s = warm
		}
		j.free <- s
		return
	}
	if len(j.free) >= warmSlots && j.release(s) == nil {
		j.mu.Lock()
		j.cold = append([]*slot{s}, j.cold...)
		j.mu.Unlock()
		return
	}
	j.free <- s
}

// batch is what a slot is about.
type batch struct {
	id     string
	stderr bool
	flush  bool
	tail   int // bytes of mem that earlier batches left
	want   int
	at     time.Time
	logEnd int64
	logIno uint64
	logDev uint64
}

// begin writes the header, and the sentinel where the read will end.
func (s *slot) begin(b *batch) {
	h := s.header
	h.magic, h.stderr, h.flush = slotMagic, flag(b.stderr), flag(b.flush)
	h.tail, h.want, h.got = uint32(b.tail), uint32(b.want), 0
	h.logEnd, h.logIno, h.logDev = b.logEnd, b.logIno, b.logDev
	h.time = b.at.UnixNano()
	h.idLen = uint32(copy(h.id[:], b.id))
	var mark [sentinelLen]byte
	binary.NativeEndian.PutUint64(mark[:], rand.Uint64())
	if b.want < sentinelLen {
		// Few bytes could be hit by chance: take those that no UTF-8 text has.
		for i := range mark {
			mark[i] |= 0xf8
		}
	}
	h.sentinel = mark
	end := s.mem[:b.tail+b.want]
	copy(end[max(b.tail, len(end)-sentinelLen):], mark[:])
	atomic.StoreUint32(&h.state, slotReading)
}

// readDone notes the length of the read.
func (s *slot) readDone(got int) {
	s.header.got = uint32(got)
	atomic.StoreUint32(&s.header.state, slotRead)
}

func (s *slot) done() { atomic.StoreUint32(&s.header.state, slotFree) }

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
