// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountShm mounts a tmpfs of size bytes for shared memory at path, owned by
// uid and gid, making the directory. A label is the SELinux context of its
// files, "" for the kernel's choice. A path that is mounted already is left.
func MountShm(path string, size int64, uid, gid int, label string) error {
	if mounted, err := Mounted(path); err == nil && mounted {
		return nil
	}
	if err := os.MkdirAll(path, 0o711); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", size, uid, gid)
	if label != "" {
		options += fmt.Sprintf(",context=%q", label)
	}
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", path, err)
	}
	return nil
}
