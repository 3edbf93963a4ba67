// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcStat is what /proc/PID/stat says of a process.
type ProcStat struct {
	State     byte            // R, S, D, T, Z, X, …
	PPID      int             // parent
	StartTime uint64          // clock ticks since boot; with the pid it names a process for good
	Status    unix.WaitStatus // wait status, meaningful while State is Z
}

// ReadProcStat reads /proc/PID/stat. The error is os.ErrNotExist or ESRCH when
// there is no such process.
func ReadProcStat(pid int) (ProcStat, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ProcStat{}, fmt.Errorf("read process status: %w", err)
	}
	return parseProcStat(raw)
}

// parseProcStat counts fields from the last parenthesis: the command name
// before it may hold anything. Numbers below are those of proc(5), less 3.
func parseProcStat(raw []byte) (ProcStat, error) {
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(f) < 50 || len(f[0]) != 1 {
		return ProcStat{}, fmt.Errorf("parse process status: %d fields", len(f))
	}
	ppid, err := strconv.Atoi(string(f[1]))
	if err != nil {
		return ProcStat{}, fmt.Errorf("parse process status: %w", err)
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return ProcStat{}, fmt.Errorf("parse process status: %w", err)
	}
	status, err := strconv.ParseUint(string(f[49]), 10, 32)
	if err != nil {
		return ProcStat{}, fmt.Errorf("parse process status: %w", err)
	}
	return ProcStat{State: f[0][0], PPID: ppid, StartTime: start, Status: unix.WaitStatus(status)}, nil
}

// ProcessState describes what a process is doing for an error text: "in
// uninterruptible sleep (D)", "a zombie (Z)", "gone", …
func ProcessState(pid int) string {
	st, err := ReadProcStat(pid)
	if err != nil {
		return "gone"
	}
	names := map[byte]string{'D': "in uninterruptible sleep (D)", 'Z': "a zombie (Z)", 'T': "stopped (T)", 'S': "sleeping (S)", 'R': "running (R)"}
	if name, ok := names[st.State]; ok {
		return name
	}
	return "in state " + string(st.State)
}

// OpenFiles counts a process's open descriptors, and how many of them are sockets.
func OpenFiles(pid int) (fds, sockets uint64, err error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, 0, err
	}
	var link [16]byte
	for _, name := range names {
		n, err := unix.Readlinkat(int(dir.Fd()), name, link[:])
		if err != nil {
			continue // closed since
		}
		fds++
		if strings.HasPrefix(string(link[:n]), "socket:[") {
			sockets++
		}
	}
	return fds, sockets, nil
}
