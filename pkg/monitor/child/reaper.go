// SPDX-License-Identifier: Apache-2.0

package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reaper waits for every child, those it was told of and those that fell to the
// monitor as the subreaper. Nothing else in the monitor's process may wait.
//
// A container's first process is known only once the program that started it
// has exited and its pid file was read; it may be dead by then. So while
// launches are under way the statuses of unknown children are kept.
type Reaper struct {
	oomAdj string     // what programs get back of oom_score_adj; "" leaves it alone
	paused sync.Mutex // held while no child may be reaped

	mu       sync.Mutex // guards what follows
	known    map[int]*awaited
	strays   map[int]stray
	launches map[uint64]time.Time // when each one under way began
	next     uint64
}

type awaited struct{ call func(unix.WaitStatus) }

type stray struct {
	status unix.WaitStatus
	at     time.Time
}

// NewReaper makes the process's one reaper. oomAdj is the oom_score_adj that
// programs get, because this process's own was lowered; "" leaves it alone.
func NewReaper(oomAdj string) *Reaper {
	return &Reaper{oomAdj: oomAdj, known: map[int]*awaited{}, strays: map[int]stray{}, launches: map[uint64]time.Time{}}
}

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	signals := make(chan os.Signal, 1) // one pending notice is enough, a sweep takes all
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	for {
		r.sweep()
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
	}
}

// Pause returns when no child is being reaped, and none is until resume is called.
func (r *Reaper) Pause() (resume func()) {
	r.paused.Lock()
	return r.paused.Unlock
}

func (r *Reaper) sweep() {
	r.paused.Lock()
	defer r.paused.Unlock()
	for {
		pid, status, err := peekChild()
		if err != nil || pid == 0 {
			return // no children, or none dead
		}
		// First report, then reap: the status is written down while the kernel still has it.
		if call := r.ended(pid, status); call != nil {
			call(status)
		}
		for {
			if _, err := unix.Wait4(pid, nil, unix.WNOHANG|unix.WALL, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

func (r *Reaper) ended(pid int, status unix.WaitStatus) func(unix.WaitStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.known[pid]; ok {
		delete(r.known, pid)
		return a.call
	}
	if len(r.launches) > 0 {
		r.strays[pid] = stray{status: status, at: time.Now()}
	}
	return nil
}

// Reaped tells whether pid, not awaited yet, was reaped since the given time,
// at which a launch was under way.
func (r *Reaper) Reaped(pid int, since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.strays[pid]
	return ok && !s.at.Before(since)
}

// Child tells whether p is for this process to reap, or was reaped by it since it
// was started. For one that is not, Await calls only if it falls to this process later.
func (r *Reaper) Child(p Process) bool {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, p.PID, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		// Whom this process reaps, it notes first: no child any more, and not noted, is another's.
		return err == nil || r.Reaped(p.PID, p.Since)
	}
}

// Expect notes a launch: from now on the statuses of unknown children are kept.
// end forgets it.
func (r *Reaper) Expect() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	key := r.next
	r.launches[key] = time.Now()
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.launches, key)
		oldest := time.Now()
		for _, at := range r.launches {
			if at.Before(oldest) {
				oldest = at
			}
		}
		for pid, s := range r.strays {
			if s.at.Before(oldest) { // numbers are reused: no launch still under way can mean this one
				delete(r.strays, pid)
			}
		}
	}
}

// Await has call run once, with pid's status: at once when pid was reaped since
// the given time, else before it is reaped. call must not block. forget is for a
// pid that is no Child, and may not become one.
func (r *Reaper) Await(pid int, since time.Time, call func(unix.WaitStatus)) (forget func()) {
	r.mu.Lock()
	s, ok := r.strays[pid]
	if ok && !s.at.Before(since) {
		delete(r.strays, pid)
		r.mu.Unlock()
		call(s.status)
		return func() {}
	}
	defer r.mu.Unlock()
	a := &awaited{call}
	r.known[pid] = a
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.known[pid] == a {
			delete(r.known, pid)
		}
	}
}

// peekChild returns a dead child and leaves it a zombie; pid 0: none is dead.
func peekChild() (pid int, status unix.WaitStatus, err error) {
	var info unix.Siginfo
	for {
		err = unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look for dead children: %w", err)
	}
	// The SIGCHLD part of siginfo_t; its place is the same on all 64-bit architectures.
	child := (*struct {
		_      [4]int32
		pid    int32
		uid    uint32
		status int32
	})(unsafe.Pointer(&info))
	const cldExited, cldDumped = 1, 3
	switch info.Code {
	case cldExited:
		status = unix.WaitStatus(child.status&0xff) << 8
	case cldDumped:
		status = unix.WaitStatus(child.status | 0x80)
	default:
		status = unix.WaitStatus(child.status)
	}
	return int(child.pid), status, nil
}
