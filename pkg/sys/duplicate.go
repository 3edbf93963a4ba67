// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// firstNumber is behind stdio: in a process that was started without, a descriptor
// of a lower number would be taken for it, by this program's log and by what it
// starts.
const firstNumber = 3

// Duplicate returns another descriptor, the caller's, of what fd is open on. It is
// closed on exec.
func Duplicate(fd int) (int, error) {
	second, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstNumber)
	if err != nil {
		return -1, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return second, nil
}
