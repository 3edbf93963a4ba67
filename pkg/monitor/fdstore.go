// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fdStore is the service manager's, where one runs us with a store for
// descriptors (systemd: FileDescriptorStoreMax=, sd_notify(3)). It is the third
// holder, after the monitor and its clients: when both are killed in the same
// moment, what a container wrote before it ended is still in its pipes, and the
// pidfd knows how it ended. The zero value stores nothing.
type fdStore struct {
	fd   int // socket; valid with addr
	addr *unix.SockaddrUnix
	log  *slog.Logger
}

// stored are the kinds worth a place: a second write end of stdin would keep
// the container from reading its end.
var stored = []fdKind{fdPidfd, fdStdout, fdStderr, fdTTY}

// firstStored is where sd_listen_fds(3) has them begin.
const firstStored = 3

// openStore finds the service manager's store, and takes what a monitor before
// this one left there: descriptors by container and kind. They are not for the
// next image of this process, which has a will.
func openStore(log *slog.Logger) (fdStore, map[string]map[fdKind]int, error) {
	left := takeStored()
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return fdStore{}, left, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fdStore{}, left, fmt.Errorf("open descriptor store: %w", err)
	}
	return fdStore{fd: fd, addr: &unix.SockaddrUnix{Name: name}, log: log}, left, nil
}

func takeStored() map[string]map[fdKind]int {
	pid, n, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(v)
	}
	count, err := strconv.Atoi(n)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	left := map[string]map[fdKind]int{}
	for i, name := range strings.Split(names, ":") {
		if i >= count {
			break
		}
		fd := firstStored + i
		unix.CloseOnExec(fd)
		id, kind := splitStored(name)
		if left[id] == nil {
			left[id] = map[fdKind]int{}
		}
		if old, twice := left[id][kind]; twice {
			unix.Close(old)
		}
		left[id][kind] = fd
	}
	return left
}

func storeName(id string, kind fdKind) string { return id + "." + string(kind) }

func splitStored(name string) (id string, kind fdKind) {
	at := max(strings.LastIndexByte(name, '.'), 0)
	return name[:at], fdKind(strings.TrimPrefix(name[at:], "."))
}

// keep puts the container's descriptors into the store; what is there already
// the manager ignores. One that is not taken is a third copy less.
func (s *fdStore) keep(c *container) {
	if s.addr == nil {
		return
	}
	kinds, fds := c.descriptors()
	defer closeFDs(fds)
	for i, kind := range kinds {
		if slices.Contains(stored, kind) {
			// FDPOLL: a pidfd hangs up when its process has ended, and that is when it is wanted.
			s.send(c.rec.ID, "FDSTORE=1\nFDPOLL=0\nFDNAME="+storeName(c.rec.ID, kind), fds[i])
		}
	}
}

// forget takes a container's descriptors out of the store.
func (s *fdStore) forget(id string) {
	if s.addr == nil {
		return
	}
	for _, kind := range stored {
		s.send(id, "FDSTOREREMOVE=1\nFDNAME="+storeName(id, kind))
	}
}

// forgetAll closes what was left of containers that nobody took over, and
// empties the store of it.
func (s *fdStore) forgetAll(left map[string]map[fdKind]int) {
	for id, kinds := range left {
		for _, fd := range kinds {
			unix.Close(fd)
		}
		s.forget(id)
	}
}

// send never waits: a manager that does not read must not hold a container up.
func (s *fdStore) send(id, text string, fds ...int) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	err := unix.Sendmsg(s.fd, []byte(text), oob, s.addr, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != nil {
		s.log.Warn("descriptor store not reached", "container", id, "err", err)
	}
}
