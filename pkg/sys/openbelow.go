// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenBelow opens path, which lies below dir, and follows no symbolic link on the
// way from there: ELOOP (openat2, Linux 5.6). Links that dir itself leads over
// are followed. flags and mode are those of open(2).
func OpenBelow(dir, path string, flags int, mode uint32) (fd int, err error) {
	rel, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return -1, fmt.Errorf("%s is not below %s: %w", path, dir, unix.EXDEV)
	}
	base, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open directory %s: %w", dir, err)
	}
	defer unix.Close(base)
	how := &unix.OpenHow{
		Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode)
	}
	for {
		fd, err = unix.Openat2(base, rel, how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.ELOOP) {
		return -1, fmt.Errorf("its path below %s has a symbolic link: %w", dir, err)
	}
	if err != nil {
		return -1, err
	}
	return fd, nil
}
