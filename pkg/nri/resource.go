// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fromCRI translates resources; in CRI zero is unset.
func fromCRI(r *cri.LinuxContainerResources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	out := &api.LinuxResources{
		Memory: &api.LinuxMemory{}, Cpu: &api.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()},
		Unified: maps.Clone(r.GetUnified()),
	}
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		out.Memory.Limit = api.Int64(v)
	}
	if v := r.GetMemorySwapLimitInBytes(); v != 0 {
		out.Memory.Swap = api.Int64(v)
	}
	if v := r.GetCpuPeriod(); v != 0 {
		out.Cpu.Period = api.UInt64(uint64(v))
	}
	if v := r.GetCpuQuota(); v != 0 {
		out.Cpu.Quota = api.Int64(v)
	}
	if v := r.GetCpuShares(); v != 0 {
		out.Cpu.Shares = api.UInt64(uint64(v))
	}
	for _, l := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &api.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()})
	}
	return out
}

// toCRI is the part of r that CRI has fields for.
func toCRI(r *api.LinuxResources) *cri.LinuxContainerResources {
	out := &cri.LinuxContainerResources{
		MemoryLimitInBytes:     r.GetMemory().GetLimit().GetValue(),
		MemorySwapLimitInBytes: r.GetMemory().GetSwap().GetValue(),
		CpuPeriod:              int64(r.GetCpu().GetPeriod().GetValue()),
		CpuQuota:               r.GetCpu().GetQuota().GetValue(),
		CpuShares:              int64(r.GetCpu().GetShares().GetValue()),
		CpusetCpus:             r.GetCpu().GetCpus(),
		CpusetMems:             r.GetCpu().GetMems(),
		Unified:                maps.Clone(r.GetUnified()),
	}
	for _, l := range r.GetHugepageLimits() {
		limit := &cri.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()}
		same := func(h *cri.HugepageLimit) bool { return h.PageSize == limit.PageSize }
		if at := slices.IndexFunc(out.HugepageLimits, same); at >= 0 {
			out.HugepageLimits[at] = limit // the library appends what a plugin changes
			continue
		}
		out.HugepageLimits = append(out.HugepageLimits, limit)
	}
	return out
}

// beyondCRI is the part of r that CRI has no fields for; nil when there is none.
func beyondCRI(r *api.LinuxResources) *api.LinuxResources {
	m, c := r.GetMemory(), r.GetCpu()
	out := &api.LinuxResources{
		BlockioClass: r.GetBlockioClass(), RdtClass: r.GetRdtClass(), Devices: r.GetDevices(), Pids: r.GetPids(),
		Memory: &api.LinuxMemory{
			Reservation: m.GetReservation(), Kernel: m.GetKernel(), KernelTcp: m.GetKernelTcp(), Swappiness: m.GetSwappiness(),
			DisableOomKiller: m.GetDisableOomKiller(), UseHierarchy: m.GetUseHierarchy(),
		},
		Cpu: &api.LinuxCPU{RealtimeRuntime: c.GetRealtimeRuntime(), RealtimePeriod: c.GetRealtimePeriod()},
	}
	if proto.Size(out.Memory) == 0 {
		out.Memory = nil
	}
	if proto.Size(out.Cpu) == 0 {
		out.Cpu = nil
	}
	if proto.Size(out) == 0 {
		return nil
	}
	return out
}

// resources sets in spec what is set in r.
func (s *Service) resources(spec *specs.Spec, r *api.LinuxResources) error {
	if c := toCRI(r); proto.Size(c) > 0 {
		if err := s.o.Host.Resources(spec, c); err != nil {
			return err
		}
	}
	rest := beyondCRI(r)
	if rest == nil {
		return nil
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	to := spec.Linux.Resources
	setMemory(to, rest.GetMemory())
	setRealtime(to, rest.GetCpu())
	if p := rest.GetPids(); p != nil {
		limit := max(p.GetLimit(), api.UnlimitedPidsLimit)
		to.Pids = &specs.LinuxPids{Limit: &limit}
	}
	for _, d := range rest.GetDevices() {
		to.Devices = append(to.Devices, specs.LinuxDeviceCgroup{
			Allow: d.GetAllow(), Type: d.GetType(), Major: d.GetMajor().Get(), Minor: d.GetMinor().Get(), Access: d.GetAccess(),
		})
	}
	return setClasses(spec, rest)
}

func setMemory(to *specs.LinuxResources, m *api.LinuxMemory) {
	if m == nil {
		return
	}
	next := specs.LinuxMemory{}
	if to.Memory != nil {
		next = *to.Memory
	}
	replace(&next.Reservation, m.GetReservation().Get())
	replace(&next.Kernel, m.GetKernel().Get()) //nolint:staticcheck // deprecated, and plugins may still ask for it
	replace(&next.KernelTCP, m.GetKernelTcp().Get())
	replace(&next.Swappiness, m.GetSwappiness().Get())
	replace(&next.DisableOOMKiller, m.GetDisableOomKiller().Get())
	replace(&next.UseHierarchy, m.GetUseHierarchy().Get())
	to.Memory = &next
}

func setRealtime(to *specs.LinuxResources, c *api.LinuxCPU) {
	if c == nil {
		return
	}
	next := specs.LinuxCPU{}
	if to.CPU != nil {
		next = *to.CPU
	}
	replace(&next.RealtimeRuntime, c.GetRealtimeRuntime().Get())
	replace(&next.RealtimePeriod, c.GetRealtimePeriod().Get())
	to.CPU = &next
}

// replace sets what is given.
func replace[T any](field **T, value *T) {
	if value != nil {
		*field = value
	}
}

// setClasses: an empty class takes the settings away. RDT classes are the kernel's; block I/O classes would be ours,
// and there are none.
func setClasses(spec *specs.Spec, r *api.LinuxResources) error {
	if class := r.GetBlockioClass(); class.GetValue() != "" {
		return fmt.Errorf("block I/O class %q: block I/O classes are not supported: %w", class.GetValue(), errdefs.ErrNotImplemented)
	} else if class != nil {
		spec.Linux.Resources.BlockIO = nil
	}
	if class := r.GetRdtClass(); class.GetValue() != "" {
		spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: class.GetValue()}
	} else if class != nil {
		spec.Linux.IntelRdt = nil
	}
	return nil
}
