// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"fmt"
	"os"
	"strconv"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// sameNamespaces fails when the monitor behind the socket does not share this
// process's mount or PID namespace: paths, mounts and pids have to mean the same
// to both. What the kernel does not tell (no procfs, or not that of our PID
// namespace) is taken to be the same.
func sameNamespaces(s *wire.Socket) error {
	cred, err := s.Peer()
	if err != nil {
		return nil //nolint:nilerr // not told
	}
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return nil //nolint:nilerr // not told
	}
	if cred.Pid == 0 {
		return wire.FailedPrecondition(fmt.Errorf("this process (pid %d) is in PID namespace %s, which the monitor's is outside of: they have to share it",
			os.Getpid(), namespace(os.Getpid(), "pid")))
	}
	for _, kind := range []struct{ what, file string }{{"mount", "mnt"}, {"PID", "pid"}} {
		own, peers := namespace(os.Getpid(), kind.file), namespace(int(cred.Pid), kind.file)
		if own != "" && peers != "" && own != peers {
			return wire.FailedPrecondition(fmt.Errorf("this process (pid %d) is in %s namespace %s, the monitor (pid %d) in %s: they have to share it",
				os.Getpid(), kind.what, own, cred.Pid, peers))
		}
	}
	return nil
}

// namespace is the kernel's name of a namespace of pid, "mnt:[4026531841]"
// (namespaces(7)), which is unique on the machine; "" is not known.
func namespace(pid int, file string) string {
	name, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + file)
	return name
}
