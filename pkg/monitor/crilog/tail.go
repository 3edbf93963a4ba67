// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// tailFile holds the unfinished last line of each stream of a container between
// batches: in a file, so that it outlives the monitor and needs no heap. It is
// made on first use; most containers write whole lines. Not safe for concurrent
// use.
type tailFile struct {
	path string
	fd   int
}

// Each stream has a fixed place: four bytes of length, then the bytes.
func (t *tailFile) offset(stderr bool) int64 { return int64(flag(stderr)) * (4 + maxLine) }

func (t *tailFile) open() error {
	if t.fd >= 0 {
		return nil
	}
	fd, err := unix.Open(t.path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open tail file: %w", err)
	}
	t.fd = fd
	return nil
}

// store replaces the stream's tail. The write is not atomic; the journal's slot
// is still taken, so a killed monitor's successor stores it again.
func (t *tailFile) store(stderr bool, tail []byte) error {
	if err := t.open(); err != nil {
		return err
	}
	var head [4]byte
	binary.NativeEndian.PutUint32(head[:], uint32(len(tail)))
	n, err := unix.Pwritev(t.fd, [][]byte{head[:], tail}, t.offset(stderr))
	if err == nil && n != len(head)+len(tail) {
		err = unix.ENOSPC
	}
	if err != nil {
		return fmt.Errorf("write tail file: %w", err)
	}
	return nil
}

// load reads the stream's tail into all of dst.
func (t *tailFile) load(stderr bool, dst []byte) error {
	n, err := unix.Pread(t.fd, dst, t.offset(stderr)+4)
	if err == nil && n != len(dst) {
		err = errors.New("short file")
	}
	if err != nil {
		return fmt.Errorf("read tail file: %w", err)
	}
	return nil
}

// length returns the length of the stream's tail, 0 when there is none.
func (t *tailFile) length(stderr bool) int {
	if t.fd < 0 {
		var st unix.Stat_t
		if unix.Lstat(t.path, &st) != nil || t.open() != nil {
			return 0
		}
	}
	var head [4]byte
	n, err := unix.Pread(t.fd, head[:], t.offset(stderr))
	size := binary.NativeEndian.Uint32(head[:])
	if err != nil || n != len(head) || size > maxLine {
		return 0
	}
	return int(size)
}

func (t *tailFile) close() {
	if t.fd >= 0 {
		unix.Close(t.fd)
	}
	t.fd = -1
}
