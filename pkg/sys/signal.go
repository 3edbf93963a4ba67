// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The real-time signals as programs know them: the C library keeps the first two of the kernel's range for itself.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// SignalNumber returns the number of a signal written as "SIGTERM", "term", "15", "RTMIN+3" or "SIGRTMAX-1"; false when
// there is no such signal.
func SignalNumber(name string) (int, bool) {
	name = strings.ToUpper(strings.TrimSpace(name))
	if n, err := strconv.Atoi(name); err == nil {
		return n, n >= 1 && n <= sigRTMax
	}
	name = strings.TrimPrefix(name, "SIG")
	switch name {
	case "RTMIN":
		return sigRTMin, true
	case "RTMAX":
		return sigRTMax, true
	case "CLD": // older names of the same numbers
		name = "CHLD"
	case "IOT":
		name = "ABRT"
	case "POLL":
		name = "IO"
	}
	if offset, ok := strings.CutPrefix(name, "RTMIN+"); ok {
		return realTime(offset, sigRTMin, 1)
	}
	if offset, ok := strings.CutPrefix(name, "RTMAX-"); ok {
		return realTime(offset, sigRTMax, -1)
	}
	n := unix.SignalNum("SIG" + name)
	return int(n), n != 0
}

func realTime(offset string, base, direction int) (int, bool) {
	n, err := strconv.ParseUint(offset, 10, 8)
	if err != nil {
		return 0, false
	}
	signal := base + direction*int(n)
	return signal, signal >= sigRTMin && signal <= sigRTMax
}

// SIGKILL ends a process; the number is the same on every architecture.
const SIGKILL = int(unix.SIGKILL)
