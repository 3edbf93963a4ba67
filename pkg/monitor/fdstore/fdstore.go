// SPDX-License-Identifier: Apache-2.0

// Package fdstore keeps descriptors of containers with the service manager, where
// one runs us with a store for them (systemd: FileDescriptorStoreMax=,
// sd_notify(3)). It is the third holder, after the monitor and its clients: when
// both are killed in the same moment, what a container wrote before it ended is
// still in its pipes, and the pidfd knows how it ended. It never waits for the
// manager, and without one it does nothing.
package fdstore

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// Store is the service manager's. The zero value stores nothing.
type Store struct {
	fd   int // socket; valid with addr
	addr *unix.SockaddrUnix
	log  *slog.Logger
}

// stored are the kinds worth a place: a second write end of stdin would keep
// the container from reading its end.
func stored() []wire.FDKind { return []wire.FDKind{wire.Pidfd, wire.Stdout, wire.Stderr, wire.TTY} }

// firstStored is where sd_listen_fds(3) has them begin.
const firstStored = 3

// Open finds the service manager's store, and takes what a monitor before
// this one left there: descriptors by container and kind. They are not for the
// next image of this process, which has a handover.
func Open(log *slog.Logger) (Store, map[string]map[wire.FDKind]int, error) {
	left := take()
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return Store{}, left, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Store{}, left, fmt.Errorf("open descriptor store: %w", err)
	}
	return Store{fd: fd, addr: &unix.SockaddrUnix{Name: name}, log: log}, left, nil
}

func take() map[string]map[wire.FDKind]int {
	pid, n, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(v)
	}
	count, err := strconv.Atoi(n)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	left := map[string]map[wire.FDKind]int{}
	for i, name := range strings.Split(names, ":") {
		if i >= count {
			break
		}
		fd := firstStored + i
		unix.CloseOnExec(fd)
		id, kind := split(name)
		if left[id] == nil {
			left[id] = map[wire.FDKind]int{}
		}
		if old, twice := left[id][kind]; twice {
			unix.Close(old)
		}
		left[id][kind] = fd
	}
	return left
}

func nameOf(id string, kind wire.FDKind) string { return id + "." + string(kind) }

func split(name string) (id string, kind wire.FDKind) {
	at := max(strings.LastIndexByte(name, '.'), 0)
	return name[:at], wire.FDKind(strings.TrimPrefix(name[at:], "."))
}

// Put puts a container's descriptors into the store; what is there already the
// manager ignores. One that is not taken is a third copy less. They stay the
// caller's.
func (s *Store) Put(id string, kinds []wire.FDKind, fds []int) {
	if s.addr == nil {
		return
	}
	for i, kind := range kinds {
		if slices.Contains(stored(), kind) {
			// FDPOLL: a pidfd hangs up when its process has ended, and that is when it is wanted.
			s.send(id, "FDSTORE=1\nFDPOLL=0\nFDNAME="+nameOf(id, kind), fds[i])
		}
	}
}

// Forget takes a container's descriptors out of the store.
func (s *Store) Forget(id string) {
	if s.addr == nil {
		return
	}
	for _, kind := range stored() {
		s.send(id, "FDSTOREREMOVE=1\nFDNAME="+nameOf(id, kind))
	}
}

// ForgetAll closes what was left of containers that were not taken over, and
// empties the store of it.
func (s *Store) ForgetAll(left map[string]map[wire.FDKind]int) {
	for id, kinds := range left {
		for _, fd := range kinds {
			unix.Close(fd)
		}
		s.Forget(id)
	}
}

// send never waits: a manager that does not read must not hold a container up.
func (s *Store) send(id, text string, fds ...int) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	err := unix.Sendmsg(s.fd, []byte(text), oob, s.addr, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != nil {
		s.log.Warn("descriptor store not reached", "container", id, "err", err)
	}
}
