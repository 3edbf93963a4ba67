// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// killHolders kills every other process that has f as its standard input, with its process group. Only a program
// that was run with f has.
func killHolders(f *os.File) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && reads(pid, f) {
			errs = append(errs, killHolder(pid, f))
		}
	}
	return errors.Join(errs...)
}

func reads(pid int, f *os.File) bool { return isAt(f, fmt.Sprintf("/proc/%d/fd/0", pid)) }

func killHolder(pid int, f *os.File) error {
	p, err := sys.OpenProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if !reads(pid, f) { // held by its pidfd now: the number was another's before
		return nil
	}
	group, err := unix.Getpgid(pid)
	if err == nil && group == pid { // the leader of a group that was made for it
		_ = unix.Kill(-group, unix.SIGKILL)
	}
	return p.Signal(unix.SIGKILL)
}
