// SPDX-License-Identifier: Apache-2.0

// Package poll tells when descriptors have something to say, for a whole process
// from one goroutine. A call runs on that goroutine and must not block; a
// descriptor stays its owner's, who ends the registration before closing it.
// It reads nothing.
package poll

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Poller serves all descriptors from one goroutine, so that one that is silent
// costs no stack. It waits through the Go
// runtime's own poller (an epoll descriptor is pollable itself), so no thread is
// parked either.
type Poller struct {
	file  *os.File
	raw   syscall.RawConn
	epfd  int
	mu    sync.Mutex // guards next, calls
	next  uint32
	calls map[uint32]func(events uint32)
}

// New makes a poller without descriptors; Run serves it.
func New() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set epoll non-blocking: %w", err)
	}
	p := &Poller{file: os.NewFile(uintptr(fd), "epoll"), epfd: fd, calls: make(map[uint32]func(uint32))}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, fmt.Errorf("open epoll: %w", err)
	}
	return p, nil
}

// Registration of a descriptor: at most one call per Arm, any number per ArmEdge.
type Registration struct {
	p     *Poller
	fd    int
	token uint32

	mu      sync.Mutex // guards what follows, and that fd is still ours
	stopped bool
	edge    bool // ArmEdge came last
}

// Add registers fd, not armed yet. call runs on the poller's goroutine and must
// not block.
func (p *Poller) Add(fd int, call func(events uint32)) (*Registration, error) {
	p.mu.Lock()
	p.next++
	r := &Registration{p: p, fd: fd, token: p.next}
	p.calls[r.token] = call
	p.mu.Unlock()
	// The token, not the descriptor, comes back with an event: numbers are reused.
	ev := unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(r.token)}
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		p.forget(r.token)
		return nil, fmt.Errorf("poll descriptor: %w", err)
	}
	return r, nil
}

// Arm asks for one call when any of events comes; errors and hang-ups count.
func (r *Registration) Arm(events uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.edge = false
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(r.token)}
	_ = unix.EpollCtl(r.p.epfd, unix.EPOLL_CTL_MOD, r.fd, &ev) // of a registered descriptor: can't fail
}

// ArmEdge asks for a call with every change of events until the next Arm, and
// for one at once if there is something to say now; repeated, it does nothing. It
// is for a hang-up that may pass, of which Arm would tell without end.
func (r *Registration) ArmEdge(events uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || r.edge {
		return
	}
	r.edge = true
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(r.token)}
	_ = unix.EpollCtl(r.p.epfd, unix.EPOLL_CTL_MOD, r.fd, &ev)
}

// Stop ends the registration. It comes before the descriptor is closed: other
// processes hold the same open file, so closing alone would not end it. A call
// may still be under way. It may be repeated.
func (r *Registration) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.stopped = true
	_ = unix.EpollCtl(r.p.epfd, unix.EPOLL_CTL_DEL, r.fd, nil)
	r.p.forget(r.token)
}

func (p *Poller) forget(token uint32) {
	p.mu.Lock()
	delete(p.calls, token)
	p.mu.Unlock()
}

// Run dispatches for the life of the process.
func (p *Poller) Run() error {
	var events [64]unix.EpollEvent
	for {
		n := 0
		var err error
		rawErr := p.raw.Read(func(fd uintptr) bool {
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err := errors.Join(rawErr, err); err != nil {
			return fmt.Errorf("wait for events: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			p.mu.Lock()
			call := p.calls[uint32(ev.Fd)]
			p.mu.Unlock()
			if call != nil {
				call(ev.Events)
			}
		}
	}
}
