// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// AppArmorEnabled reports whether the kernel confines by AppArmor and says so here: OCI runtimes refuse a profile where
// securityfs is not mounted, as in a node that is itself a container.
func AppArmorEnabled() bool {
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		return false
	}
	raw, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(raw) > 0 && raw[0] == 'Y'
}

// AppArmorLoaded reports whether the kernel holds an AppArmor profile of that name.
func AppArmorLoaded(profile string) (bool, error) {
	f, err := os.Open("/sys/kernel/security/apparmor/profiles")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read AppArmor profiles: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// A line is "name (mode)", and a name may hold spaces.
		if at := strings.LastIndex(lines.Text(), " ("); at > 0 && lines.Text()[:at] == profile {
			return true, nil
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("read AppArmor profiles: %w", err)
	}
	return false, nil
}

// Label gives a file an SELinux context; "" leaves it the one that it has.
func Label(path, context string) error {
	if context == "" {
		return nil
	}
	if err := unix.Lsetxattr(path, "security.selinux", []byte(context), 0); err != nil {
		return fmt.Errorf("label %s as %s: %w", path, context, err)
	}
	return nil
}

// selinuxEnabled reports whether the kernel labels by SELinux, enforcing or not.
func selinuxEnabled() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && st.Type == unix.SELINUX_MAGIC
}

// seccompEnabled reports whether the kernel can filter system calls (CONFIG_SECCOMP_FILTER).
func seccompEnabled() bool {
	// A nil filter is refused with EFAULT where filters are known and with EINVAL where they are not.
	_, _, errno := unix.Syscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0)
	return errno == unix.EFAULT
}
