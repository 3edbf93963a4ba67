// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller tells when descriptors have something to say, for all containers from
// one goroutine: an idle container costs no stack. It waits through the Go
// runtime's own poller (an epoll descriptor is pollable itself), so no thread is
// parked either.
type poller struct {
	file  *os.File
	raw   syscall.RawConn
	epfd  int
	mu    sync.Mutex // guards next, calls
	next  uint32
	calls map[uint32]func(events uint32)
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set epoll non-blocking: %w", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), epfd: fd, calls: make(map[uint32]func(uint32))}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, fmt.Errorf("open epoll: %w", err)
	}
	return p, nil
}

// watch is one registration: at most one call per arm, any number per armEdge.
type watch struct {
	p     *poller
	fd    int
	token uint32

	mu      sync.Mutex // guards what follows, and that fd is still ours
	stopped bool
	edge    bool // armEdge came last
}

// add registers fd, not armed yet. call runs on the poller's goroutine and must
// not block.
func (p *poller) add(fd int, call func(events uint32)) (*watch, error) {
	p.mu.Lock()
	p.next++
	w := &watch{p: p, fd: fd, token: p.next}
	p.calls[w.token] = call
	p.mu.Unlock()
	// The token, not the descriptor, comes back with an event: numbers are reused.
	ev := unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(w.token)}
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		p.forget(w.token)
		return nil, fmt.Errorf("watch descriptor: %w", err)
	}
	return w, nil
}

// arm asks for one call when any of events comes; errors and hang-ups count.
func (w *watch) arm(events uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.edge = false
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(w.token)}
	_ = unix.EpollCtl(w.p.epfd, unix.EPOLL_CTL_MOD, w.fd, &ev) // of a registered descriptor: can't fail
}

// armEdge asks for a call with every change of events until the next arm, and
// for one at once if there is something to say now; repeated, it does nothing. It
// is for a hang-up that may pass, of which arm would tell without end.
func (w *watch) armEdge(events uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || w.edge {
		return
	}
	w.edge = true
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(w.token)}
	_ = unix.EpollCtl(w.p.epfd, unix.EPOLL_CTL_MOD, w.fd, &ev)
}

// stop ends the registration. It comes before the descriptor is closed: other
// processes hold the same open file, so closing alone would not end it. A call
// may still be under way. It may be repeated.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.stopped = true
	_ = unix.EpollCtl(w.p.epfd, unix.EPOLL_CTL_DEL, w.fd, nil)
	w.p.forget(w.token)
}

func (p *poller) forget(token uint32) {
	p.mu.Lock()
	delete(p.calls, token)
	p.mu.Unlock()
}

// run dispatches for the life of the process.
func (p *poller) run() error {
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
