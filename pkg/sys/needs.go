// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CheckFilesystem tells whether the kernel has a type of filesystem, and has it load the module if that is what it takes
// (fsopen(2), Linux 5.2). Nothing is mounted.
func CheckFilesystem(kind string) error {
	fd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the kernel has no %s filesystem: load its module (modprobe %s), or use a kernel that has it: %w", kind, kind, err)
	}
	return nil // it could not be asked: too old, or out of descriptors
}

// controllers are what a pod's limits are set with. The kubelet refuses a node without them; io and hugetlb are only
// wanted by pods that name such limits, and cpuset by pods with processors of their own.
func controllers() []string { return []string{"cpu", "memory", "pids"} }

// CheckControllers tells whether the cgroups below root, CgroupRoot of a machine, have the controllers that pods need.
func CheckControllers(root string, v2 bool) error {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return !errors.Is(err, fs.ErrNotExist)
	}
	if v2 {
		raw, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("read controllers: %w", err)
		}
		on := strings.Fields(string(raw))
		has = func(name string) bool { return slices.Contains(on, name) }
	}
	var missing []string
	for _, name := range controllers() {
		if !has(name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
		return nil
	case !v2 && len(missing) == len(controllers()):
		return fmt.Errorf("no cgroups are mounted at %s: mount -t cgroup2 cgroup2 %s", root, root)
	}
	return fmt.Errorf("cgroup controllers are missing at %s: %s: switch them on where the kernel is booted (cgroup_enable=memory), "+
		"or have whoever made this cgroup delegate them", root, strings.Join(missing, ", "))
}

// SystemdSockets are where systemd can be asked for a scope: through D-Bus, or by root without it.
func SystemdSockets() []string {
	return []string{"/run/dbus/system_bus_socket", "/run/systemd/private"}
}

// CheckSystemd tells whether something listens on one of the sockets.
func CheckSystemd(ctx context.Context, sockets []string) error {
	var errs []error
	for _, socket := range sockets {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn.Close()
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("systemd makes the cgroups and cannot be asked: start D-Bus (systemctl start dbus.socket), "+
		"or set [cgroup] driver = \"cgroupfs\" here and in the kubelet: %w", errors.Join(errs...))
}
