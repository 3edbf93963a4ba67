// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadSmall reads a whole file of the kernel's (/proc, /sys, cgroups) into buf, growing it when it has to, and returns
// what it read. It makes four system calls where os.ReadFile makes more, which counts for thousands of files.
func ReadSmall(path string, buf []byte) ([]byte, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return readSmall(fd, path, buf)
}

// readSmallAt is ReadSmall for a file of an open directory.
func readSmallAt(dir int, name string, buf []byte) ([]byte, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
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
		n, err := retry(func() (int, error) { return unix.Read(fd, buf[have:]) })
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

// writeAt writes to a file of the kernel's in an open directory.
func writeAt(dir int, name, text string) error {
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if _, err := retry(func() (int, error) { return unix.Write(fd, []byte(text)) }); err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

func retry(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// CgroupPath turns an OCI cgroupsPath into the path below a hierarchy, with a leading slash.
func CgroupPath(cgroupsPath string) string { return cgroupRelative(cgroupsPath) }

// CgroupParentPath turns a pod's cgroup parent, a path or with systemd the name of a slice, into the path below a
// hierarchy, with a leading slash.
func CgroupParentPath(parent string) string {
	if strings.HasSuffix(parent, ".slice") && !strings.Contains(parent, "/") {
		return filepath.Join("/", expandSlice(parent))
	}
	return filepath.Join("/", parent)
}

// Filesystem is the size of one, in bytes and inodes.
type Filesystem struct {
	Bytes, BytesFree   uint64
	Inodes, InodesFree uint64
	Major, Minor       uint32 // device number; major 0 where the filesystem has no single device
}

// FilesystemOf asks the filesystem that path is on.
func FilesystemOf(path string) (Filesystem, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Filesystem{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Filesystem{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	size := uint64(fs.Bsize)
	return Filesystem{
		Bytes: fs.Blocks * size, BytesFree: fs.Bavail * size, Inodes: fs.Files, InodesFree: fs.Ffree,
		Major: unix.Major(st.Dev), Minor: unix.Minor(st.Dev),
	}, nil
}

// BlockDevice names a block device by number, "/dev/sda"; "MAJOR:MINOR" for one that has no name here.
func BlockDevice(major, minor uint32) string {
	number := strconv.FormatUint(uint64(major), 10) + ":" + strconv.FormatUint(uint64(minor), 10)
	raw, err := ReadSmall("/sys/dev/block/"+number+"/uevent", nil)
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return number
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
