// SPDX-License-Identifier: Apache-2.0

package limits_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/limits"
)

// A status keeps what an update does not mention, as the cgroup does: each size
// of huge pages by itself.
func TestMergeAsked(t *testing.T) {
	pages := func(size string, limit uint64) *cri.HugepageLimit {
		return &cri.HugepageLimit{PageSize: size, Limit: limit}
	}
	old := &cri.LinuxContainerResources{CpuShares: 7, HugepageLimits: []*cri.HugepageLimit{pages("2MB", 1), pages("1GB", 2)}, Unified: map[string]string{"a.b": "1"}}
	kept := proto.Clone(old)
	update := &cri.LinuxContainerResources{CpuQuota: 5, HugepageLimits: []*cri.HugepageLimit{pages("1GB", 3)}, Unified: map[string]string{"c.d": "2"}}
	want := &cri.LinuxContainerResources{
		CpuShares: 7, CpuQuota: 5, HugepageLimits: []*cri.HugepageLimit{pages("2MB", 1), pages("1GB", 3)}, Unified: map[string]string{"a.b": "1", "c.d": "2"},
	}
	if got := limits.MergeAsked(old, update); !proto.Equal(got, want) || !proto.Equal(old, kept) {
		t.Errorf("%v and %v make %v", old, update, got)
	}
	if got := limits.MergeAsked(nil, update); !proto.Equal(got, update) {
		t.Errorf("nothing and %v make %v", update, got)
	}
}
