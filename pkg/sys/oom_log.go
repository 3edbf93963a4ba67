// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kernelLog     = "/dev/kmsg"
	kernelLogMost = 8192 // bytes of one record, escapes included (kernel/printk)
	userHZ        = 100  // ticks per second of /proc/pid/stat's start time
)

// OOMVictim is a process, and the cgroups it was in, to look for in the kernel's log.
type OOMVictim struct {
	Cgroups []string // host directories; their last elements are unique on this machine
	PID     int
	Start   uint64 // ticks since boot, as ProcStat has it
}

// LoggedOOMKill reports whether the kernel's log tells that the OOM killer ended v's process or one in its cgroups. It
// is for where the counters are gone before they could be read: systemd removes a scope as soon as its last process
// has ended, faster than that process's parent may learn of it. What was said first is in the log before the process
// ends. Old entries get lost in a log that is full, and a kernel that kills ten times in five seconds names the
// process only: false means that nothing is known, no more.
func LoggedOOMKill(v OOMVictim) (bool, error) {
	fd, err := unix.Open(kernelLog, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("read kernel log: %w", &os.PathError{Op: "open", Path: kernelLog, Err: err})
	}
	defer unix.Close(fd)
	buf := make([]byte, kernelLogMost)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false, nil // that was all
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue // the record we were at is overwritten; the next read takes the oldest there is
		case err != nil:
			return false, fmt.Errorf("read kernel log: %w", err)
		case v.told(buf[:n]):
			return true, nil
		}
	}
}

// told reads one record, "priority,number,microseconds,flags;text". The kernel says of each kill, since Linux 4.19 and
// 5.0: "oom-kill:constraint=…,task_memcg=CGROUP,task=NAME,pid=PID,uid=UID", then "…: Killed process PID (NAME) …".
func (v OOMVictim) told(record []byte) bool {
	head, text, _ := bytes.Cut(record, []byte(";"))
	text, _, _ = bytes.Cut(text, []byte("\n"))
	if rest, ok := bytes.CutPrefix(text, []byte("oom-kill:")); ok {
		_, rest, _ = bytes.Cut(rest, []byte("task_memcg="))
		cgroup, _, _ := bytes.Cut(rest, []byte(","))
		return v.in(append(slices.Clip(cgroup), '/'))
	}
	_, rest, ok := bytes.Cut(text, []byte(": Killed process "))
	if !ok {
		return false
	}
	pid, _, _ := bytes.Cut(rest, []byte(" "))
	return string(pid) == strconv.Itoa(v.PID) && sinceBoot(head) >= time.Duration(v.Start)*(time.Second/userHZ)
}

func (v OOMVictim) in(cgroup []byte) bool {
	for _, dir := range v.Cgroups {
		if bytes.Contains(cgroup, []byte("/"+filepath.Base(dir)+"/")) {
			return true
		}
	}
	return false
}

func sinceBoot(head []byte) time.Duration {
	fields := bytes.SplitN(head, []byte(","), 4)
	if len(fields) < 3 {
		return 0
	}
	us, _ := strconv.ParseInt(string(fields[2]), 10, 64) // 0 is before everything
	return time.Duration(us) * time.Microsecond
}
