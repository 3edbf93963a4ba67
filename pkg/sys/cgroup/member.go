// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// MemberStat is [sys.ReadProcStat] for a process that must be in one of the cgroup
// directories dirs or below: the error is ESRCH for any other, and for one that
// is gone. The last elements of dirs are unique on this machine. A zombie counts
// as long as it is not reaped.
func MemberStat(pid int, dirs []string) (sys.ProcStat, error) {
	before, err := sys.ReadProcStat(pid)
	if err != nil {
		return sys.ProcStat{}, err
	}
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return sys.ProcStat{}, fmt.Errorf("read cgroups of process: %w", err)
	}
	after, err := sys.ReadProcStat(pid)
	if err != nil {
		return sys.ProcStat{}, err
	}
	if after.StartTime != before.StartTime || !liesIn(raw, dirs) {
		return sys.ProcStat{}, fmt.Errorf("process %d is in none of the cgroups %s: %w", pid, strings.Join(dirs, " "), unix.ESRCH)
	}
	return after, nil
}

// liesIn reads /proc/PID/cgroup, lines of "hierarchy:controllers:path", of both
// versions of cgroups. Where a hierarchy's root is seen differs between cgroup
// namespaces and mounts, so only names within the paths are compared.
func liesIn(raw []byte, dirs []string) bool {
	for line := range bytes.Lines(raw) {
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		path := strings.TrimSuffix(fields[2], " (deleted)")
		for name := range strings.SplitSeq(path, "/") {
			if name != "" && slices.ContainsFunc(dirs, func(dir string) bool { return filepath.Base(dir) == name }) {
				return true
			}
		}
	}
	return false
}
