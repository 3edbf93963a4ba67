// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// The limit is written into the files of either generation that are there, and
// makes none.
func TestSetHugepageLimit(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.2MB.max", "hugetlb.1GB.max"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("9223372036854775807"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := cgroup.SetHugepageLimit([]string{"/nonexistent", dir}, "2MB", 4<<20); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"hugetlb.2MB.limit_in_bytes": "4194304", "hugetlb.2MB.rsvd.limit_in_bytes": "4194304", "hugetlb.2MB.max": "4194304",
		"hugetlb.1GB.max": "9223372036854775807", "hugetlb.2MB.rsvd.max": "",
	} {
		if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
