// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Readable is how many bytes a read of the pipe or terminal fd would find at
// once (TIOCINQ, the same number as FIONREAD: ioctl_tty(2), pipe(7)).
func Readable(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0, fmt.Errorf("read the amount of buffered data: %w", err)
	}
	return n, nil
}

// Buffered is Readable of an open file.
func Buffered(f *os.File) (n int, err error) {
	var ioctl error
	err = withFD(f, func(fd int) { n, ioctl = Readable(fd) })
	return n, errors.Join(err, ioctl)
}

// AwaitReadable returns when f can be read or has lost its last writer, or
// after limit. It blocks a thread meanwhile.
func AwaitReadable(f *os.File, limit time.Duration) error {
	var poll error
	err := withFD(f, func(fd int) {
		_, poll = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit/time.Millisecond))
	})
	if errors.Is(poll, unix.EINTR) {
		poll = nil // the caller looks what there is
	}
	if err = errors.Join(err, poll); err != nil {
		return fmt.Errorf("wait for input: %w", err)
	}
	return nil
}

// withFD does not use File.Fd, which would change the file's mode.
func withFD(f *os.File, use func(fd int)) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(func(fd uintptr) { use(int(fd)) })
}
