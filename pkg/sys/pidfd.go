// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// PidfdOpen returns a close-on-exec descriptor for the process pid. A process
// that ended but was not reaped yet still has one; after that the error is
// ESRCH.
func PidfdOpen(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	return fd, nil
}

// PidfdSignal sends sig to the process behind fd. ESRCH once it was reaped.
func PidfdSignal(fd, sig int) error {
	if err := unix.PidfdSendSignal(fd, unix.Signal(sig), nil, 0); err != nil {
		return fmt.Errorf("send signal %d: %w", sig, err)
	}
	return nil
}

// PidfdStatus returns the wait status of the process behind fd, for a process
// that need not be a child of ours. It is known once the process was reaped, if
// the kernel is 6.15 or newer and fd was opened before the exit; ok is false
// otherwise.
func PidfdStatus(fd int) (status unix.WaitStatus, ok bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil {
		return 0, false
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.Exit_code), true
}

// PidfdEnded reports whether the process behind fd has ended, and whether it
// was reaped as well (known from Linux 6.9 on; before, reaped stays false).
func PidfdEnded(fd int) (ended, reaped bool) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return false, false
		}
		return true, p[0].Revents&unix.POLLHUP != 0
	}
}
