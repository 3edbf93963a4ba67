// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// CapabilityNames lists the capabilities in the order of their numbers, as capability.h of Linux 5.9 has them (the
// last one added is CAP_CHECKPOINT_RESTORE). Each call returns a new slice.
func CapabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
		"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
		"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
		"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
		"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// boundingSet returns the capabilities this process could pass on to a child, by name. What a container is given
// "all" of is this set: asking for more makes the runtime fail.
func boundingSet() ([]string, error) { return capabilitySet("CapBnd") }

// effectiveSet returns the capabilities this process can use now, by name.
func effectiveSet() ([]string, error) { return capabilitySet("CapEff") }

func capabilitySet(field string) ([]string, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("read capability set: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		value, ok := strings.CutPrefix(line, field+":")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("parse capability set %s: %w", field, err)
		}
		return namesOf(bits), nil
	}
	return nil, fmt.Errorf("read capability set: no %s in /proc/self/status", field)
}

// namesOf leaves out bits without a name: a kernel newer than the table has them, but no one could ask for them.
func namesOf(bits uint64) []string {
	set := []string{}
	for number, name := range CapabilityNames() {
		if bits&(1<<number) != 0 {
			set = append(set, name)
		}
	}
	return set
}
