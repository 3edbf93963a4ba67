// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ResizeTerminal sets the size, in characters, of the terminal whose master f is.
func ResizeTerminal(f *os.File, width, height uint16) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	err = conn.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	if err == nil {
		err = ioctl
	}
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}
