// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// lockPatience is how long a lock may outlive the process that took it. A killed process's child that is between fork and
// exec still has the file open: usually for microseconds, on a machine that swaps for longer.
const lockPatience = 10 * time.Second

// LockFile takes an exclusive lock on path, creating the file, and writes this process's id into it. The lock ends with
// the returned file or the process. ErrLocked, naming the holder, when it is taken by a process that lives; when its
// holder is dead already, the end of the lock is waited for.
func LockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := takeLock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock %s: %w", path, err)
	}
	return f, nil
}

func takeLock(f *os.File) error {
	fd := int(f.Fd())
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	holder := make([]byte, 16)
	n, _ := f.ReadAt(holder, 0) // empty when the holder has just begun
	held := fmt.Errorf("held by process %s: %w", holder[:n], ErrLocked)
	pid, err := strconv.Atoi(strings.TrimSpace(string(holder[:n])))
	if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return held
	}
	free := make(chan error, 1)
	go func() { free <- unix.Flock(fd, unix.LOCK_EX) }()
	select {
	case err := <-free:
		return err
	case <-time.After(lockPatience):
		return held
	}
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}
