// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// SpecScore returns the oom_score_adj that a container's processes begin with.
func SpecScore(spec *specs.Spec) int {
	if spec.Process == nil || spec.Process.OOMScoreAdj == nil {
		return 0
	}
	return *spec.Process.OOMScoreAdj
}

// Reported returns the resources of a status: what was asked for, with the oom_score_adj and the CPU shares that this
// machine, and plugins, made of it.
func Reported(asked *cri.LinuxContainerResources, spec *specs.Spec) *cri.ContainerResources {
	if asked == nil {
		return &cri.ContainerResources{}
	}
	asked = proto.Clone(asked).(*cri.LinuxContainerResources)
	if asked.OomScoreAdj != 0 {
		asked.OomScoreAdj = int64(SpecScore(spec))
	}
	if cpu := spec.Linux.Resources.CPU; asked.CpuShares != 0 && cpu != nil && cpu.Shares != nil {
		asked.CpuShares = int64(*cpu.Shares)
	}
	return &cri.ContainerResources{Linux: asked}
}

// MergeAsked returns old with the set fields of update over it, each size of huge pages by itself; both stay as they are.
func MergeAsked(old, update *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	if old == nil {
		old = &cri.LinuxContainerResources{}
	}
	merged := proto.Clone(old).(*cri.LinuxContainerResources)
	merged.HugepageLimits = slices.DeleteFunc(merged.HugepageLimits, func(l *cri.HugepageLimit) bool {
		return slices.ContainsFunc(update.GetHugepageLimits(), func(u *cri.HugepageLimit) bool { return u.GetPageSize() == l.GetPageSize() })
	})
	proto.Merge(merged, update)
	return merged
}
