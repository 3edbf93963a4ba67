// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ReadSmall reads a whole file of the kernel's (/proc, /sys, cgroups) into buf, growing it when it has to, and returns
// what it read. It makes four system calls where os.ReadFile makes more, which counts for thousands of files.
func ReadSmall(path string, buf []byte) ([]byte, error) {
	fd, err := Retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return readSmall(fd, path, buf)
}

// ReadSmallAt is ReadSmall for a file of an open directory.
func ReadSmallAt(dir int, name string, buf []byte) ([]byte, error) {
	fd, err := Retry(func() (int, error) { return unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	return readSmall(fd, name, buf)
}

func readSmall(fd int, path string, buf []byte) ([]byte, error) {
	buf = buf[:cap(buf)]
	if len(buf) == 0 {
		buf = make([]byte, 4096)
	}
	have := 0
	for {
		n, err := Retry(func() (int, error) { return unix.Read(fd, buf[have:]) })
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 { // only this is the end: lists, such as cgroup.procs, come a page at a time
			return buf[:have], nil
		}
		if have += n; have == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// WriteAt writes to a file of the kernel's in an open directory.
func WriteAt(dir int, name, text string) error {
	fd, err := Retry(func() (int, error) { return unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if _, err := Retry(func() (int, error) { return unix.Write(fd, []byte(text)) }); err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// Retry calls f until no signal interrupts it (EINTR).
func Retry(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
