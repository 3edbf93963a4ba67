// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ResizeTerminal sets the size, in characters, of the terminal whose master f is.
func ResizeTerminal(f *os.File, width, height uint16) error {
	var ioctl error
	err := withFD(f, func(fd int) {
		ioctl = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	if err = errors.Join(err, ioctl); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}
