// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// MountReadOnly is the mount attribute of a mount that can't be written through.
const MountReadOnly = unix.MOUNT_ATTR_RDONLY

// IsUnmappable tells whether err, of an idmapped mount, means that the file system can have none.
func IsUnmappable(err error) bool { return errors.Is(err, unix.EINVAL) }

// Mounted says whether path is the root of a mount. A path that doesn't exist is not mounted.
func Mounted(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, 0, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		err = unix.ENOSYS // Linux 5.8
	}
	if err != nil {
		return false, fmt.Errorf("look up mount %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// Unmount takes away the topmost mount at path and is idempotent: nothing mounted, or no path, is success. It doesn't
// follow a symlink at path and writes nothing back. What is busy is detached: it goes when its last user does.
func Unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", path, err)
}

// Bind mounts the directory source on target, alone, without what is mounted below it. Read-only binds are noexec too:
// they carry image volumes, which Kubernetes mounts as data.
func Bind(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOEXEC, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", target, err), Unmount(target))
	}
	return nil
}

// SyncFS writes the whole filesystem that holds path to disk.
func SyncFS(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync filesystem of %s: %w", path, err)
	}
	return nil
}

// OwnerMode is what a directory's inode says about access.
type OwnerMode struct {
	UID, GID int
	Mode     fs.FileMode // permissions with set-uid, set-gid and sticky
}

// Owner reads the owner and mode out of what Stat or Lstat returned.
func Owner(fi fs.FileInfo) (OwnerMode, error) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return OwnerMode{}, fmt.Errorf("stat %s: no inode data", fi.Name())
	}
	const bits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	return OwnerMode{UID: int(st.Uid), GID: int(st.Gid), Mode: fi.Mode() & bits}, nil
}
