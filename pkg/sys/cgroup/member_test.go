// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

func TestLiesIn(t *testing.T) {
	v1 := []string{"/sys/fs/cgroup/memory/kubepods/pod1/c1", "/sys/fs/cgroup/pids/kubepods/pod1/c1"}
	v2 := []string{"/sys/fs/cgroup/kubepods.slice/kubepods-pod1.slice/cri-c1.scope"}
	for name, tt := range map[string]struct {
		raw  string
		dirs []string
		want bool
	}{
		"v1":                      {"3:cpuset:/\n2:memory:/kubepods/pod1/c1\n", v1, true},
		"v2":                      {"0::/kubepods.slice/kubepods-pod1.slice/cri-c1.scope\n", v2, true},
		"cgroup below":            {"0::/kubepods.slice/kubepods-pod1.slice/cri-c1.scope/init.scope\n", v2, true},
		"seen from a namespace":   {"0::/../cri-c1.scope\n", v2, true},
		"below a bound root":      {"2:pids:/docker/node/kubepods/pod1/c1\n", v1, true},
		"zombie of a removed one": {"0::/kubepods.slice/kubepods-pod1.slice/cri-c1.scope (deleted)\n", v2, true},
		"colon in the path":       {"0::/a:b/cri-c1.scope\n", v2, true},
		"another container":       {"2:memory:/kubepods/pod1/c2\n", v1, false},
		"longer name":             {"2:memory:/kubepods/pod1/c1x\n", v1, false},
		"name within":             {"0::/kubepods.slice/kubepods-pod1.slice/x-cri-c1.scope\n", v2, false},
		"the pod's":               {"2:memory:/kubepods/pod1\n", v1, false},
		"the root's":              {"0::/\n", v2, false},
		"controller of the name":  {"2:c1:/\n", v1, false},
		"nothing is ours":         {"0::/kubepods/pod1/c1\n", nil, false},
		"no lines":                {"", v2, false},
	} {
		if got := cgroup.LiesIn([]byte(tt.raw), tt.dirs); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, err := cgroup.MemberStat(os.Getpid(), v2); err == nil {
		t.Error("this process is taken for a container's")
	}
}
