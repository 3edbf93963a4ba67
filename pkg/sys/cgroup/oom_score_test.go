// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// Processes get the new score, those in cgroups below as well; one that has
// chosen another keeps it, and so does one outside.
func TestMoveOOMScoreAdj(t *testing.T) {
	dirs := testCgroup(t, "cri-test-oom-"+strconv.Itoa(os.Getpid()))
	below := dirs[0] + "/below"
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(below) })
	score := func(pid int, write ...string) string {
		t.Helper()
		path := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
		for _, text := range write {
			if err := os.WriteFile(path, []byte(text), 0); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	one, child, own, outside := sleeper(t, dirs...), sleeper(t, below), sleeper(t, dirs...), sleeper(t)
	for pid, has := range map[int]string{one.Process.Pid: "900", child.Process.Pid: "900", own.Process.Pid: "700", outside.Process.Pid: "900"} {
		score(pid, has)
	}
	for _, to := range []int{950, 920} {
		if err := cgroup.MoveOOMScoreAdj(t.Context(), append(dirs, "/nonexistent"), map[int]int{950: 900, 920: 950}[to], to); err != nil {
			t.Error(err)
		}
		for pid, want := range map[int]string{one.Process.Pid: strconv.Itoa(to), child.Process.Pid: strconv.Itoa(to), own.Process.Pid: "700", outside.Process.Pid: "900"} {
			if got := score(pid); got != want {
				t.Errorf("process %d has %s, want %s", pid, got, want)
			}
		}
	}
	if err := cgroup.MoveOOMScoreAdj(t.Context(), dirs, 920, 5000); err == nil || !strings.Contains(err.Error(), "5000") {
		t.Errorf("a score that no process may have: %v", err)
	}
}
