// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

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

// ForeignStatus returns the wait status of a process that another process reaps:
// from its zombie while there is one, from the pidfd after that. start is its
// start time, see [ProcStat].
func ForeignStatus(fd, pid int, start uint64) (status unix.WaitStatus, ok bool) {
	st, err := ReadProcStat(pid)
	if err == nil && st.StartTime == start && st.State == 'Z' {
		return st.Status, true
	}
	return PidfdStatus(fd)
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

// Process holds one process by its pidfd, in the runtime's poller: waiting for
// its end costs no thread.
type Process struct{ pidfd *os.File }

// OpenProcess holds the process pid. The error is ESRCH for one that has ended.
func OpenProcess(pid int) (*Process, error) {
	fd, err := PidfdOpen(pid)
	if err != nil {
		return nil, err
	}
	if ended, _ := PidfdEnded(fd); ended {
		unix.Close(fd)
		return nil, fmt.Errorf("open pidfd of %d: %w", pid, unix.ESRCH)
	}
	return NewProcess(fd)
}

// NewProcess takes the pidfd over, also when it fails.
func NewProcess(fd int) (*Process, error) {
	// The poller takes only what does not block. For a pidfd that concerns waitid(2) alone.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set pidfd non-blocking: %w", err)
	}
	return &Process{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Signal sends sig. A process that has ended needs none.
func (p *Process) Signal(sig unix.Signal) error {
	var sent error
	err := withFD(p.pidfd, func(fd int) { sent = PidfdSignal(fd, int(sig)) })
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return errors.Join(err, sent)
}

// AwaitEnd returns when the process has ended, or with the context's error.
func (p *Process) AwaitEnd(ctx context.Context) error {
	conn, err := p.pidfd.SyscallConn()
	if err == nil {
		err = p.pidfd.SetReadDeadline(time.Time{}) // an earlier context may have ended
	}
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		ended, _ := PidfdEnded(int(fd))
		return ended
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// Close lets the process go.
func (p *Process) Close() error { return p.pidfd.Close() }
