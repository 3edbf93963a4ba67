// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// minFree is how many bytes a state directory needs for records to be replaced.
const minFree = 1 << 20

// CheckWritable tells why records could not be written below dir: a read-only
// or full filesystem, or a directory that is gone. It writes nothing.
func CheckWritable(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		return fmt.Errorf("%s: filesystem is read-only", dir)
	case st.Bavail*uint64(st.Bsize) < minFree:
		return fmt.Errorf("%s: filesystem is full, %d bytes free", dir, st.Bavail*uint64(st.Bsize))
	case st.Files > 0 && st.Ffree == 0:
		return fmt.Errorf("%s: filesystem has no inodes left", dir)
	}
	return nil
}

// IsDiskFull reports whether an error is that of a filesystem, or a quota, without space.
func IsDiskFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// IsErrno reports whether err itself is a bare error number of a system call, whatever interfaces that implements.
func IsErrno(err error) bool {
	_, is := err.(unix.Errno) //nolint:errorlint // not what it wraps
	return is
}
