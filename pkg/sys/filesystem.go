// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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
