// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/keyed"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Locks keeps programs that work on the same object apart, also those of a process that died: a lock is held by its
// owner and by each program that was run with it (Command), until the last of them has ended. The locks are files in one
// directory that belongs to no other process at the same time.
//
// A program has the lock's file as its standard input, because that is the one descriptor that every program has, keeps
// to its end, and does not give to what it leaves running: shells and daemons give /dev/null to those.
type Locks struct {
	dir   string
	turns keyed.Lock // whose turn it is within this process
}

// NewLocks makes the locks of dir, which is made when it is needed. It should be on a tmpfs: after a restart of the
// machine no program of before is left.
func NewLocks(dir string) *Locks { return &Locks{dir: dir} }

// Lock is the right to run programs on one object.
type Lock struct {
	locks *Locks
	name  string
	path  string
	file  *os.File
	left  atomic.Bool // a program was left running: the lock is its now
}

// Take waits until the lock called name is free: another caller for as long as ctx lasts, a program that was left
// running for limit, after which it is killed with its process group. Errors: the context's cause; the program can't be
// killed.
func (l *Locks) Take(ctx context.Context, name string, limit time.Duration) (*Lock, error) {
	if err := l.turns.Lock(ctx, name); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	r := &Lock{locks: l, name: name, path: filepath.Join(l.dir, name)}
	if err := r.take(ctx, limit); err != nil {
		l.turns.Unlock(name)
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return r, nil
}

// take gets hold of the file that has the lock's name. The one that was waited for may have been removed meanwhile.
func (r *Lock) take(ctx context.Context, limit time.Duration) error {
	for {
		f, err := openLock(r.path)
		if err != nil {
			return err
		}
		if err := takeFrom(ctx, f, limit); err != nil {
			f.Close()
			return err
		}
		if r.file = f; isAt(f, r.path) {
			return nil
		}
		f.Close()
	}
}

func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		}
	}
	return f, err
}

// takeFrom locks f. A program that a predecessor began has it for limit at most.
func takeFrom(ctx context.Context, f *os.File, limit time.Duration) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	over, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := sys.AwaitFlock(over, f); err == nil || !errors.Is(err, sys.ErrLocked) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("an earlier program still runs: %w", context.Cause(ctx))
	}
	if err := killHolders(f); err != nil {
		return err
	}
	grace, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	err = sys.AwaitFlock(grace, f)
	if errors.Is(err, sys.ErrLocked) {
		return fmt.Errorf("an earlier program has not ended within %s and cannot be killed: %w", limit, sys.ErrLocked)
	}
	return err
}

func isAt(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	want, err := os.Stat(path)
	return err == nil && os.SameFile(have, want)
}

// input makes data what the next program reads, and returns the descriptor that gives it the lock.
func (r *Lock) input(data []byte) (*os.File, error) {
	err := r.file.Truncate(0)
	if err == nil {
		_, err = r.file.WriteAt(data, 0)
	}
	if err == nil {
		_, err = r.file.Seek(0, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("write stdin: %w", err)
	}
	fd, err := sys.Duplicate(int(r.file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("duplicate lock: %w", err)
	}
	return os.NewFile(uintptr(fd), r.path), nil
}

// leave hands the lock to the program that runs.
func (r *Lock) leave() { r.left.Store(true) }

// free tells whether another program may be run with the lock.
func (r *Lock) free() error {
	if r.left.Load() {
		return fmt.Errorf("lock %s: an earlier program still runs: %w", r.name, sys.ErrLocked)
	}
	return nil
}

// Release gives the lock up, once. What programs left running in the background has no part in it then, whereas a
// program that Command left running has it until it ends.
func (r *Lock) Release() {
	if !r.left.Load() {
		_ = os.Remove(r.path)
		_ = unix.Flock(int(r.file.Fd()), unix.LOCK_UN) // for every process that has the descriptor
	}
	r.file.Close()
	r.locks.turns.Unlock(r.name)
}
