// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

const resField = "linux.resources."

// The kernel's least and most cpu.shares. It takes others for the nearest of these; runtimes refuse them.
const (
	minShares = 2
	maxShares = 1 << 18
)

// Update applies r to a spec: fields that are zero stay as they are. The spec is unchanged when an error is
// returned. Nothing is told to a running container; that is the runtime's update command, with spec.Linux.Resources.
func Update(spec *specs.Spec, r *cri.LinuxContainerResources, facts sys.Facts) error {
	if spec.Linux == nil || spec.Process == nil {
		return refusal.Unmet("linux.resources", "the spec is not of a Linux container")
	}
	if err := Validate(r, facts); err != nil {
		return err
	}
	next, err := merge(spec.Linux.Resources, r, facts)
	if err != nil {
		return err
	}
	spec.Linux.Resources = next
	if r.GetOomScoreAdj() != 0 {
		spec.Process.OOMScoreAdj = OOMScoreAdj(r, facts)
	}
	return nil
}

// merge returns old with the set fields of r over it; old is not changed.
func merge(old *specs.LinuxResources, r *cri.LinuxContainerResources, facts sys.Facts) (*specs.LinuxResources, error) {
	next := specs.LinuxResources{}
	if old != nil {
		next = *old
	}
	next.CPU = mergeCPU(next.CPU, r)
	memory, err := mergeMemory(next.Memory, r, facts)
	if err != nil {
		return nil, err
	}
	next.Memory = memory
	if next.HugepageLimits, err = mergeHugepages(next.HugepageLimits, r.GetHugepageLimits(), facts); err != nil {
		return nil, err
	}
	if len(r.GetUnified()) > 0 {
		unified := maps.Clone(next.Unified)
		if unified == nil {
			unified = map[string]string{}
		}
		maps.Copy(unified, r.GetUnified())
		next.Unified = unified
	}
	return &next, nil
}

func mergeCPU(old *specs.LinuxCPU, r *cri.LinuxContainerResources) *specs.LinuxCPU {
	next := specs.LinuxCPU{}
	if old != nil {
		next = *old
	}
	if v := r.GetCpuPeriod(); v != 0 {
		next.Period = new(uint64)
		*next.Period = uint64(v)
	}
	if v := r.GetCpuQuota(); v != 0 {
		next.Quota = &v
	}
	if v := r.GetCpuShares(); v != 0 {
		next.Shares = new(uint64)
		*next.Shares = uint64(min(max(v, minShares), maxShares))
	}
	if v := r.GetCpusetCpus(); v != "" {
		next.Cpus = v
	}
	if v := r.GetCpusetMems(); v != "" {
		next.Mems = v
	}
	if next == (specs.LinuxCPU{}) {
		return nil
	}
	return &next
}

// mergeMemory: swap is memory and swap together in CRI and in the spec (runtimes convert it for v2). A memory limit
// without a swap limit means no swap; a changed memory limit keeps the amount of swap that was allowed on top.
func mergeMemory(old *specs.LinuxMemory, r *cri.LinuxContainerResources, facts sys.Facts) (*specs.LinuxMemory, error) {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	if limit == 0 && swap == 0 {
		return old, nil
	}
	next := specs.LinuxMemory{}
	if old != nil {
		next = *old
	}
	if limit != 0 {
		next.Limit = &limit
		if swap == 0 {
			swap = swapFor(limit, old)
		}
	}
	if next.Limit != nil && *next.Limit > 0 && swap > 0 && swap < *next.Limit {
		return nil, refusal.Invalid(resField+"memory_swap_limit_in_bytes", "%d is less than the memory limit %d that it includes", swap, *next.Limit)
	}
	if next.Limit == nil && swap > 0 && facts.SwapAccounting {
		return nil, refusal.Invalid(resField+"memory_swap_limit_in_bytes", "set without memory_limit_in_bytes, which it includes")
	}
	if facts.SwapAccounting {
		next.Swap = &swap
	}
	return &next, nil
}

func swapFor(limit int64, old *specs.LinuxMemory) int64 {
	if limit < 0 || old == nil || old.Swap == nil || old.Limit == nil {
		return limit
	}
	if *old.Swap < 0 {
		return *old.Swap
	}
	return limit + max(0, *old.Swap-*old.Limit)
}

// mergeHugepages leaves out sizes without a control: the kubelet sends a limit of 0 for each size it knows.
func mergeHugepages(old []specs.LinuxHugepageLimit, limits []*cri.HugepageLimit, facts sys.Facts) ([]specs.LinuxHugepageLimit, error) {
	next := slices.Clone(old)
	for _, l := range limits {
		size, err := hugepageSize(l.GetPageSize())
		if err != nil {
			return nil, err
		}
		if !slices.Contains(facts.HugepageSizes, size) {
			continue
		}
		limit := specs.LinuxHugepageLimit{Pagesize: size, Limit: l.GetLimit()}
		if at := slices.IndexFunc(next, func(h specs.LinuxHugepageLimit) bool { return h.Pagesize == size }); at >= 0 {
			next[at] = limit
			continue
		}
		next = append(next, limit)
	}
	return next, nil
}

// hugepageSize checks a size and returns it as the kernel writes it.
func hugepageSize(s string) (string, error) {
	for unit, shift := range map[string]uint{"KB": 10, "MB": 20, "GB": 30} {
		number, ok := strings.CutSuffix(s, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n == 0 {
			break
		}
		return sys.HugepageName(n << shift), nil
	}
	return "", refusal.Invalid(resField+"hugepage_limits", "%q is no page size, as 2MB is", s)
}

// ValidateNew checks the limits of a container that has none yet.
func ValidateNew(r *cri.LinuxContainerResources, facts sys.Facts) error {
	err := Validate(r, facts)
	if err == nil {
		_, err = merge(nil, r, facts)
	}
	return err
}

// ValidatePod checks the two parts of what a pod is given by the rules of a container's. They are recorded,
// and told to plugins, and limit nothing here.
func ValidatePod(overhead, resources *cri.LinuxContainerResources, facts sys.Facts) error {
	return refusal.AllOf(Validate(overhead, facts), Validate(resources, facts))
}

// Validate checks the limits of a container against what kernels accept and against the machine's cgroup version.
func Validate(r *cri.LinuxContainerResources, facts sys.Facts) error {
	for _, f := range []struct {
		name           string
		value, lo, hi  int64
		alsoUnlimited  bool
		zeroMeansUnset bool
	}{
		{"cpu_period", r.GetCpuPeriod(), 1000, 1_000_000, false, true},
		{"cpu_quota", r.GetCpuQuota(), 1000, 1<<44 - 1, true, true},
		{"cpu_shares", r.GetCpuShares(), 1, 1<<63 - 1, false, true},
		{"memory_limit_in_bytes", r.GetMemoryLimitInBytes(), 1, 1<<63 - 1, true, true},
		{"memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), 1, 1<<63 - 1, true, true},
		{"oom_score_adj", r.GetOomScoreAdj(), -1000, 1000, false, false},
	} {
		if f.value == 0 && f.zeroMeansUnset || f.value == -1 && f.alsoUnlimited {
			continue
		}
		if f.value < f.lo || f.value > f.hi {
			return refusal.Invalid(resField+f.name, "%d is outside %d-%d", f.value, f.lo, f.hi)
		}
	}
	if err := validateList("cpuset_cpus", r.GetCpusetCpus()); err != nil {
		return err
	}
	if err := validateList("cpuset_mems", r.GetCpusetMems()); err != nil {
		return err
	}
	for _, l := range r.GetHugepageLimits() {
		if _, err := hugepageSize(l.GetPageSize()); err != nil {
			return err
		}
	}
	return validateUnified(r.GetUnified(), facts)
}

// validateList checks the kernel's list format: 0-3,7.
func validateList(name, list string) error {
	if list == "" {
		return nil
	}
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		lo, err := strconv.ParseUint(first, 10, 16)
		hi, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || hi < lo {
			return refusal.Invalid(resField+name, "%q is no list of numbers, as 0-3,7 is", list)
		}
	}
	return nil
}

// validateUnified: keys are names of files in a cgroup directory, and must stay that.
func validateUnified(unified map[string]string, facts sys.Facts) error {
	if len(unified) > 0 && !facts.CgroupV2 {
		return refusal.Invalid(resField+"unified", "this machine has cgroup v1")
	}
	for key, value := range unified {
		controller, file, ok := strings.Cut(key, ".")
		if !ok || controller == "" || file == "" || strings.ContainsAny(key, "/\x00") || strings.ContainsRune(value, 0) {
			return refusal.Invalid(fmt.Sprintf("%sunified[%s]", resField, key), "no file of a cgroup")
		}
	}
	return nil
}

// OOMScoreAdj is the score of a container with the limits r. It is set even when nothing is asked for: inherited, it would be the monitor's, which is protected.
func OOMScoreAdj(r *cri.LinuxContainerResources, facts sys.Facts) *int {
	v := NearestScore(int(r.GetOomScoreAdj()), facts)
	return &v
}

// NearestScore returns the oom_score_adj nearest to v that a process on this machine may be given. Values differ from v only where
// the daemon lacks CAP_SYS_RESOURCE: asking for less would make the runtime fail.
func NearestScore(v int, facts sys.Facts) int { return max(v, facts.OOMScoreAdjMin) }
