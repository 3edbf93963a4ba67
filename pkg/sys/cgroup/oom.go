// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// OOMKills sums the processes the kernel's OOM killer ended in the given cgroup
// directories: memory.events of cgroup v2 (oom_kill; a group kill counts each
// process, and oom_group_kill once more), memory.oom_control of v1 (oom_kill,
// Linux 4.13). Directories without such a file count nothing, so the list may
// name every hierarchy and need not exist yet. The counters go with the cgroup:
// read them before it is removed.
//
// systemd removes them early: see [sys.LoggedOOMKill].
func OOMKills(dirs []string) uint64 {
	var sum uint64
	for _, dir := range dirs {
		for _, name := range oomCounters() {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			sum += oomKills(raw)
		}
	}
	return sum
}

// CountsOOMKills reports whether OOMKills has something to read in the cgroup directory dir.
func CountsOOMKills(dir string) bool {
	for _, name := range oomCounters() {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

func oomCounters() [2]string { return [...]string{"memory.events", "memory.oom_control"} }

func oomKills(raw []byte) uint64 {
	var sum uint64
	for line := range bytes.Lines(raw) {
		key, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if k := string(key); k != "oom_kill" && k != "oom_group_kill" {
			continue
		}
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err == nil {
			sum += n
		}
	}
	return sum
}
