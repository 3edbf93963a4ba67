// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Device is one device node of the host.
type Device struct {
	Path         string // where it was found, absolute
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         fs.FileMode // permission bits
	UID, GID     uint32
}

// Devices returns the device at path, following a symbolic link, or, when path is a directory, all devices below it in
// lexical order. ErrNotExist when there is nothing, fs.ErrInvalid when path is neither.
func Devices(path string) ([]Device, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", path, err)
	}
	if !fi.IsDir() {
		d, ok := deviceOf(path)
		if !ok {
			return nil, fmt.Errorf("find device %s: not a device: %w", path, fs.ErrInvalid)
		}
		return []Device{d}, nil
	}
	var found []Device
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // devices come and go while we walk
		}
		if err != nil {
			return err
		}
		if e.IsDir() && p != path && private(p) {
			return fs.SkipDir
		}
		if e.Type()&fs.ModeDevice == 0 || p == "/dev/console" {
			return nil
		}
		if d, ok := deviceOf(p); ok {
			found = append(found, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list devices below %s: %w", path, err)
	}
	return found, nil
}

// private tells the directories of /dev that each container has of its own, or that only their maker understands.
func private(dir string) bool {
	rest, ok := strings.CutPrefix(dir, "/dev/")
	if !ok {
		return false
	}
	switch rest {
	case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
		return true
	}
	return false
}

// deviceOf follows a symbolic link; false when path is no device, or is one no longer.
func deviceOf(path string) (Device, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, false
	}
	d := Device{Path: path, Mode: fs.FileMode(st.Mode & 0o777), UID: st.Uid, GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return Device{}, false
	}
	d.Major, d.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return d, true
}
