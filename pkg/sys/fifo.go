// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// MakeFIFO makes a named pipe at path, mode 0600, owned by uid:gid. A pipe that
// is there already is kept, with what it holds; anything else is EEXIST.
func MakeFIFO(path string, uid, gid int) error {
	err := unix.Mkfifo(path, 0o600)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("make fifo %s: %w", path, err)
	}
	if err := unix.Lchown(path, uid, gid); err != nil {
		return fmt.Errorf("hand over fifo %s: %w", path, err)
	}
	return nil
}

// OpenFIFO opens a named pipe without waiting for the other end. flags are
// unix.O_RDONLY, O_WRONLY (ENXIO without a reader) or O_RDWR; the descriptor
// is close-on-exec and, unless blocking, non-blocking.
func OpenFIFO(path string, flags int, blocking bool) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, fmt.Errorf("open fifo %s: %w", path, err)
		}
		if blocking {
			if err := unix.SetNonblock(fd, false); err != nil {
				unix.Close(fd)
				return -1, fmt.Errorf("set fifo %s blocking: %w", path, err)
			}
		}
		return fd, nil
	}
}
