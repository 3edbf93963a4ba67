// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
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
func LockFile(path string) (*os.File, error) { return lockFile(path, takeLock) }

// AwaitLock is LockFile for who waits, until ctx ends, for a holder that lives. ErrLocked when it still has it then.
func AwaitLock(ctx context.Context, path string) (*os.File, error) {
	return lockFile(path, func(f *os.File) error { return AwaitFlock(ctx, f) })
}

func lockFile(path string, take func(*os.File) error) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := take(f); err != nil {
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
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	holder := holderOf(f)
	pid, err := strconv.Atoi(holder)
	if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return heldBy(holder)
	}
	return whenFree(f, time.After(lockPatience))
}

// AwaitFlock takes an exclusive lock on an open file, as AwaitLock does, and writes nothing into it.
func AwaitFlock(ctx context.Context, f *os.File) error {
	over := make(chan time.Time)
	defer context.AfterFunc(ctx, func() { close(over) })()
	return whenFree(f, over)
}

// whenFree takes the lock as soon as its holder gives it up, unless over comes first.
func whenFree(f *os.File, over <-chan time.Time) error {
	fd, err := Duplicate(int(f.Fd())) // the caller may close f before the wait is over
	if err != nil {
		return err
	}
	free := make(chan error, 1)
	go func() {
		defer unix.Close(fd)
		free <- unix.Flock(fd, unix.LOCK_EX)
	}()
	select {
	case err := <-free:
		return err
	case <-over:
		return heldBy(holderOf(f))
	}
}

// holderOf reads the process id in a lock file: empty when the holder has just begun.
func holderOf(f *os.File) string {
	holder := make([]byte, 16)
	n, _ := f.ReadAt(holder, 0)
	return strings.TrimSpace(string(holder[:n]))
}

func heldBy(holder string) error { return fmt.Errorf("held by process %s: %w", holder, ErrLocked) }

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}
