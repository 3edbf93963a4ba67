// SPDX-License-Identifier: Apache-2.0

package limits_test

import (
	"encoding/json"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/limits"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestUpdate(t *testing.T) {
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
			spec := specWith(t, c.old)
			before := encode(t, spec.Linux.Resources)
			shared := spec.Linux.Resources
			if err := limits.Update(spec, c.update, facts()); err != nil {
				t.Fatal(err)
			}
			if encode(t, shared) != before {
				t.Error("the old value was changed in place")
			}
			if got := encode(t, spec.Linux.Resources); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestUpdateRefuses(t *testing.T) {
	spec := specWith(t, &cri.LinuxContainerResources{})
	before := encode(t, spec)
	for _, r := range []*cri.LinuxContainerResources{
		{CpuShares: 5, CpuPeriod: 1}, {MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 5}, {CpuShares: 5, Unified: map[string]string{"a/b.c": ""}},
	} {
		if err := limits.Update(spec, r, facts()); !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("error %v is neither InvalidArgument nor FailedPrecondition", err)
		}
	}
	if encode(t, spec) != before {
		t.Error("a refused update changed the spec")
	}
	if err := limits.Update(&specs.Spec{}, nil, facts()); !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error %v is neither InvalidArgument nor FailedPrecondition", err)
	}
}

func facts() sys.Facts {
	return sys.Facts{CgroupV2: true, SwapAccounting: true, HugepageSizes: []string{"2MB", "1GB"}}
}

// specWith is a spec of a container with the limits r.
func specWith(t *testing.T, r *cri.LinuxContainerResources) *specs.Spec {
	t.Helper()
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	if err := limits.Update(spec, r, facts()); err != nil {
		t.Fatal(err)
	}
	return spec
}

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
