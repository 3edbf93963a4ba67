// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The two signals that C libraries keep for themselves. A program started by
// their posix_spawn (make, some shells) inherits them ignored.
const (
	sigCancel = 32
	sigSetXID = 33
)

// DefaultLibrarySignals gives the C library's two signals back their default
// action, so that what this process starts does not inherit them ignored. Go's
// own runtime leaves them alone, and os/signal cannot name them. Only for
// programs without cgo: a C library in the process would want them.
func DefaultLibrarySignals() error {
	for _, signal := range []uintptr{sigCancel, sigSetXID} {
		// The kernel's struct sigaction, all zero: SIG_DFL, no flags, empty mask.
		// It is at most four words on every architecture.
		var action [4]uint64
		const maskSize = 8
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0)
		if errno != 0 {
			return fmt.Errorf("reset signal %d: %w", signal, errno)
		}
	}
	return nil
}
