// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"encoding/json"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

func TestUpdateResources(t *testing.T) {
	host := testHost()
	for name, c := range map[string]struct {
		old, update *cri.LinuxContainerResources
		want        string
	}{
		"zero changes nothing": {
			&cri.LinuxContainerResources{CpuShares: 5, MemoryLimitInBytes: 100}, &cri.LinuxContainerResources{},
			`{"memory":{"limit":100,"swap":100},"cpu":{"shares":5}}`,
		},
		"set fields win": {
			&cri.LinuxContainerResources{CpuShares: 5, CpuQuota: 2000, CpusetCpus: "0"},
			&cri.LinuxContainerResources{CpuShares: 6, CpuPeriod: 3000, CpusetCpus: "1"},
			`{"cpu":{"shares":6,"quota":2000,"period":3000,"cpus":"1"}}`,
		},
		"shares as the kernel takes them": {
			&cri.LinuxContainerResources{CpuShares: 1}, &cri.LinuxContainerResources{}, `{"cpu":{"shares":2}}`,
		},
		"shares beyond the kernel's": {
			&cri.LinuxContainerResources{CpuShares: 2}, &cri.LinuxContainerResources{CpuShares: 262145}, `{"cpu":{"shares":262144}}`,
		},
		"no swap stays no swap": {
			&cri.LinuxContainerResources{MemoryLimitInBytes: 100}, &cri.LinuxContainerResources{MemoryLimitInBytes: 300},
			`{"memory":{"limit":300,"swap":300}}`,
		},
		"swap keeps its amount": {
			&cri.LinuxContainerResources{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 150}, &cri.LinuxContainerResources{MemoryLimitInBytes: 300},
			`{"memory":{"limit":300,"swap":350}}`,
		},
		"unlimited swap stays": {
			&cri.LinuxContainerResources{MemoryLimitInBytes: 100, MemorySwapLimitInBytes: -1}, &cri.LinuxContainerResources{MemoryLimitInBytes: 300},
			`{"memory":{"limit":300,"swap":-1}}`,
		},
		"limit lifted": {
			&cri.LinuxContainerResources{MemoryLimitInBytes: 100}, &cri.LinuxContainerResources{MemoryLimitInBytes: -1, CpuQuota: -1},
			`{"memory":{"limit":-1,"swap":-1},"cpu":{"quota":-1}}`,
		},
		"hugepages and unified merge": {
			&cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 1}, {PageSize: "1024MB", Limit: 2}}, Unified: map[string]string{"a.b": "1", "a.c": "2"}},
			&cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2048KB", Limit: 9}}, Unified: map[string]string{"a.b": "3"}},
			`{"hugepageLimits":[{"pageSize":"2MB","limit":9},{"pageSize":"1GB","limit":2}],"unified":{"a.b":"3","a.c":"2"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			in.Config.Linux.Resources = c.old
			spec, err := oci.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			before := marshal(t, spec.Linux.Resources)
			shared := spec.Linux.Resources
			if err := oci.UpdateResources(spec, c.update, host); err != nil {
				t.Fatal(err)
			}
			if marshal(t, shared) != before {
				t.Error("the old value was changed in place")
			}
			spec.Linux.Resources.Devices, spec.Linux.Resources.Pids = nil, nil // the same for all
			if got := marshal(t, spec.Linux.Resources); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestUpdateResourcesRefuses(t *testing.T) {
	spec, err := oci.Container(testInput())
	if err != nil {
		t.Fatal(err)
	}
	before := marshal(t, spec)
	for _, r := range []*cri.LinuxContainerResources{
		{CpuShares: 5, CpuPeriod: 1}, {MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 5}, {CpuShares: 5, Unified: map[string]string{"a/b.c": ""}},
	} {
		refused(t, oci.UpdateResources(spec, r, testHost()))
	}
	if marshal(t, spec) != before {
		t.Error("a refused update changed the spec")
	}
	refused(t, oci.UpdateResources(&specs.Spec{}, nil, testHost()))
}

func TestOOMScoreAdjIsClamped(t *testing.T) {
	in := testInput()
	in.Host.OOMScoreAdjMin = -500
	for asked, want := range map[int64]int{-997: -500, -500: -500, 0: 0, 1000: 1000} {
		in.Config.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: asked}
		spec, err := oci.Container(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := *spec.Process.OOMScoreAdj; got != want {
			t.Errorf("%d became %d, want %d", asked, got, want)
		}
	}
}

func TestRlimitsAreClamped(t *testing.T) {
	in := testInput()
	in.Host.RlimitMax = map[string]uint64{"RLIMIT_NOFILE": 20000, "RLIMIT_NPROC": 100, "RLIMIT_STACK": 4 << 20}
	spec, err := oci.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range spec.Process.Rlimits {
		if most, ok := in.Host.RlimitMax[l.Type]; ok && (l.Hard != most || l.Soft > l.Hard) {
			t.Errorf("%+v is above %d", l, most)
		}
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestTasksHaveNoLimitOfSystemd(t *testing.T) {
	for name, c := range map[string]struct {
		systemd bool
		unified map[string]string
		want    string
	}{
		"systemd has one":   {true, nil, `{"limit":-1}`},
		"cgroupfs has none": {false, nil, "null"},
		"one was asked for": {true, map[string]string{"pids.max": "7"}, "null"},
		"another is not it": {true, map[string]string{"cpu.idle": "1"}, `{"limit":-1}`},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			in.Host.Systemd = c.systemd
			in.Config.Linux.Resources = &cri.LinuxContainerResources{Unified: c.unified}
			spec, err := oci.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := marshal(t, spec.Linux.Resources.Pids); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
