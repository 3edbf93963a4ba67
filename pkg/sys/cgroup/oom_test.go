// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

func TestOOMKills(t *testing.T) {
	tests := []struct {
		name, file, content string
		want                uint64
	}{
		{"v2", "memory.events", "low 0\nhigh 3\nmax 9\noom 2\noom_kill 2\noom_group_kill 1\n", 3},
		{"v1", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", 4},
		{"old v1", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", 0},
		{"garbage", "memory.events", "oom_kill\noom_kill x\n\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := cgroup.OOMKills([]string{"/nonexistent", dir}); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}
