// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func hidden() []string { return []string{"/var/lib/kubelet", "/var/log/containers", "/var/log/pods"} }

// RemoveAbsent returns what removes the folders that are not there yet, once they have served to hide something.
func RemoveAbsent() (remove func()) {
	var absent []string
	for _, dir := range hidden() {
		if _, err := os.Stat(dir); err != nil {
			absent = append(absent, dir)
		}
	}
	return func() {
		for _, dir := range absent {
			_ = os.Remove(dir) // not if something else uses it by now
		}
	}
}

// Hide puts empty file systems over what a kubelet writes to whatever its configuration says, and settings it would
// change over those of the machine. They go with this process's mount namespace.
func Hide() error {
	for _, dir := range hidden() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		if has, err := os.ReadFile("/proc/sys/" + name); err == nil && strings.TrimSpace(string(has)) == value {
			continue // nothing to change
		}
		file := filepath.Join("/var/lib/kubelet", "sysctl-"+filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", name, err)
		}
	}
	return nil
}
