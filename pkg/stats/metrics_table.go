// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"strconv"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func cpuMetrics() []metric {
	return []metric{
		{
			"container_cpu_usage_seconds_total", "CPU time used, in seconds.", counter,
			[]string{"cpu"},
			func(s *sample, emit emit) {
				if s.cpu != nil {
					emit(seconds(s.cpu.usage), "total")
				}
			},
		},
		{
			"container_cpu_user_seconds_total", "CPU time used in user mode, in seconds.", counter, nil,
			ofCPU(func(c *cpu) uint64 { return seconds(c.user) }),
		},
		{
			"container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds.", counter, nil,
			ofCPU(func(c *cpu) uint64 { return seconds(c.system) }),
		},
		{
			"container_cpu_cfs_periods_total", "CPU quota periods that have passed.", counter, nil,
			ofCPU(func(c *cpu) uint64 { return c.periods }),
		},
		{
			"container_cpu_cfs_throttled_periods_total", "CPU quota periods in which the quota ran out.", counter, nil,
			ofCPU(func(c *cpu) uint64 { return c.throttled }),
		},
		{
			"container_cpu_cfs_throttled_seconds_total", "Time spent throttled by the CPU quota, in seconds.", counter, nil,
			ofCPU(func(c *cpu) uint64 { return seconds(c.stopped) }),
		},
	}
}

func memoryMetrics() []metric {
	return []metric{
		{"container_memory_cache", "Page cache, in bytes.", gauge, nil, ofMemory(func(m *memory) *uint64 { return &m.cache })},
		{"container_memory_rss", "Anonymous memory, in bytes.", gauge, nil, ofMemory(func(m *memory) *uint64 { return &m.rss })},
		{"container_memory_swap", "Swap used, in bytes; 0 also where the kernel does not count it.", gauge, nil, ofMemory(func(m *memory) *uint64 {
			if m.swap == nil {
				return new(uint64)
			}
			return m.swap
		})},
		{"container_memory_kernel_usage", "Kernel memory, in bytes.", gauge, nil, ofMemory(func(m *memory) *uint64 { return m.kernel })},
		{"container_memory_mapped_file", "Mapped files, in bytes.", gauge, nil, ofMemory(func(m *memory) *uint64 { return &m.mapped })},
		{"container_memory_failcnt", "Times the memory limit was hit.", counter, nil, ofMemory(func(m *memory) *uint64 { return m.failures })},
		{"container_memory_usage_bytes", "Memory used, page cache included, in bytes.", gauge, nil, ofMemory(func(m *memory) *uint64 { return &m.usage })},
		{"container_memory_max_usage_bytes", "Most memory ever used at a time, in bytes.", gauge, nil, ofMemory(func(m *memory) *uint64 { return m.max })},
		{
			"container_memory_working_set_bytes", "Memory used less the page cache that could go first, in bytes.", gauge, nil,
			ofMemory(func(m *memory) *uint64 { return &m.workingSet }),
		},
		{
			"container_memory_failures_total", "Page faults, by type and by whether cgroups below are counted in.", counter,
			[]string{"failure_type", "scope"},
			func(s *sample, emit emit) {
				if m := s.memory; m != nil {
					emit(m.ownFaults, "pgfault", "container")
					emit(m.ownMajorFaults, "pgmajfault", "container")
					emit(m.faults, "pgfault", "hierarchy")
					emit(m.majorFaults, "pgmajfault", "hierarchy")
				}
			},
		},
	}
}

func networkMetrics() []metric {
	row := func(name, help string, get func(nic) uint64) metric {
		return metric{"container_network_" + name + "_total", help, counter, []string{"interface"}, ofNICs(get)}
	}
	return []metric{
		row("receive_bytes", "Bytes received.", func(n nic) uint64 { return n.rx.bytes }),
		row("receive_packets", "Packets received.", func(n nic) uint64 { return n.rx.packets }),
		row("receive_packets_dropped", "Packets dropped while receiving.", func(n nic) uint64 { return n.rx.dropped }),
		row("receive_errors", "Errors while receiving.", func(n nic) uint64 { return n.rx.errors }),
		row("transmit_bytes", "Bytes sent.", func(n nic) uint64 { return n.tx.bytes }),
		row("transmit_packets", "Packets sent.", func(n nic) uint64 { return n.tx.packets }),
		row("transmit_packets_dropped", "Packets dropped while sending.", func(n nic) uint64 { return n.tx.dropped }),
		row("transmit_errors", "Errors while sending.", func(n nic) uint64 { return n.tx.errors }),
	}
}

func diskMetrics() []metric {
	layer := func(name, help string, get func(*sample) uint64) metric {
		return metric{"container_fs_" + name, help, gauge, []string{"device"}, func(s *sample, emit emit) {
			if s.disk != nil && s.fs != nil {
				emit(get(s), s.layerDevice())
			}
		}}
	}
	block := func(name, help string, get func(device) uint64) metric {
		return metric{"container_fs_" + name + "_total", help, counter, []string{"device"}, func(s *sample, emit emit) {
			for _, d := range s.blockDevices() {
				emit(get(d), s.names.name(d.major, d.minor))
			}
		}}
	}
	return []metric{
		layer("inodes_free", "Free inodes of the filesystem the writable layer is on.", func(s *sample) uint64 { return s.fs.InodesFree }),
		layer("inodes_total", "Inodes of the filesystem the writable layer is on.", func(s *sample) uint64 { return s.fs.Inodes }),
		layer("limit_bytes", "Size of the filesystem the writable layer is on, in bytes.", func(s *sample) uint64 { return s.fs.Bytes }),
		layer("usage_bytes", "Size of the writable layer, in bytes.", func(s *sample) uint64 { return s.disk.Bytes }),
		block("reads_bytes", "Bytes read from the device.", func(d device) uint64 { return d.readBytes }),
		block("reads", "Reads from the device.", func(d device) uint64 { return d.reads }),
		block("writes_bytes", "Bytes written to the device.", func(d device) uint64 { return d.writeBytes }),
		block("writes", "Writes to the device.", func(d device) uint64 { return d.writes }),
		{
			"container_blkio_device_usage_total", "Bytes moved to and from the device, by operation.", counter,
			[]string{"device", "major", "minor", "operation"},
			func(s *sample, emit emit) {
				for _, d := range s.blockDevices() {
					for _, op := range d.operations() {
						emit(op.bytes, s.names.name(d.major, d.minor), strconv.Itoa(int(d.major)), strconv.Itoa(int(d.minor)), op.name)
					}
				}
			},
		},
	}
}

func (s *sample) layerDevice() string { return s.names.name(s.fs.Major, s.fs.Minor) }

// blockDevices are those the container used. One that used none yet has used none of the one its writable layer is on:
// a series that starts at zero is worth more than one that starts later.
func (s *sample) blockDevices() []device {
	if len(s.io.devices) == 0 && s.container != nil && s.fs != nil {
		return []device{{major: s.fs.Major, minor: s.fs.Minor}}
	}
	return s.io.devices
}

type operation struct {
	name  string
	bytes uint64
}

func (d device) operations() []operation {
	ops := []operation{{"Read", d.readBytes}, {"Write", d.writeBytes}}
	if d.hasSync {
		ops = append(ops, operation{"Sync", d.syncBytes}, operation{"Async", d.asyncBytes})
	}
	if d.hasDiscards {
		ops = append(ops, operation{"Discard", d.discardBytes})
	}
	return append(ops, operation{"Total", d.readBytes + d.writeBytes + d.discardBytes})
}

func processMetrics() []metric {
	return []metric{
		{"container_processes", "Processes.", gauge, nil, ofProcesses(func(p *processes) uint64 { return p.count })},
		{"container_file_descriptors", "Open file descriptors.", gauge, nil, ofProcesses(func(p *processes) uint64 { return p.fds })},
		{"container_sockets", "Open sockets.", gauge, nil, ofProcesses(func(p *processes) uint64 { return p.sockets })},
		{"container_threads", "Threads.", gauge, nil, func(s *sample, emit emit) {
			if s.tasks != nil {
				emit(*s.tasks)
			}
		}},
		{"container_threads_max", "Most threads allowed, 0 for any number.", gauge, nil, func(s *sample, emit emit) {
			if s.tasksMax != nil {
				emit(*s.tasksMax)
			}
		}},
		{"container_ulimits_soft", "Soft resource limits of the first process.", gauge, []string{"ulimit"}, func(s *sample, emit emit) {
			if s.procs != nil && s.procs.openFiles != nil {
				emit(*s.procs.openFiles, "max_open_files")
			}
		}},
	}
}

// specMetrics are what was asked for, with the kernel's defaults where nothing was.
func specMetrics() []metric {
	row := func(name, help string, get func(r *cri.LinuxContainerResources) int64) metric {
		return metric{"container_spec_" + name, help, gauge, nil, func(s *sample, emit emit) {
			if s.container != nil {
				emit(uint64(max(get(s.container.Resources), 0)))
			}
		}}
	}
	return []metric{
		row("cpu_period", "Length of a CPU quota period, in microseconds.", func(r *cri.LinuxContainerResources) int64 { return cmp.Or(r.GetCpuPeriod(), 100000) }),
		row("cpu_quota", "CPU time allowed in a period, in microseconds, 0 for any.", (*cri.LinuxContainerResources).GetCpuQuota),
		row("cpu_shares", "CPU shares.", func(r *cri.LinuxContainerResources) int64 { return cmp.Or(r.GetCpuShares(), 1024) }),
		row("memory_limit_bytes", "Memory limit, in bytes, 0 for none.", (*cri.LinuxContainerResources).GetMemoryLimitInBytes),
		row("memory_swap_limit_bytes", "Limit of memory and swap together, in bytes, 0 for none.", (*cri.LinuxContainerResources).GetMemorySwapLimitInBytes),
		row("memory_reservation_limit_bytes", "Memory reserved, in bytes; Kubernetes reserves none.", func(*cri.LinuxContainerResources) int64 { return 0 }),
	}
}

func hugepageMetrics() []metric {
	row := func(name, help string, get func(hugepage) uint64) metric {
		return metric{"container_hugetlb_" + name, help, gauge, []string{"pagesize"}, func(s *sample, emit emit) {
			for _, h := range s.huge {
				emit(get(h), h.size)
			}
		}}
	}
	return []metric{
		row("usage_bytes", "Huge pages used, in bytes.", func(h hugepage) uint64 { return h.usage }),
		row("max_usage_bytes", "Most huge pages ever used at a time, in bytes; on cgroup v2, which keeps no such figure, those used now.",
			func(h hugepage) uint64 { return h.max }),
	}
}

func pressureMetrics() []metric {
	var out []metric
	for _, res := range []struct {
		name string
		get  func(*sample) *psi
	}{
		{"cpu", func(s *sample) *psi {
			if s.cpu == nil {
				return nil
			}
			return s.cpu.psi
		}},
		{"memory", func(s *sample) *psi {
			if s.memory == nil {
				return nil
			}
			return s.memory.psi
		}},
		{"io", func(s *sample) *psi { return s.io.psi }},
	} {
		row := func(kind, help string, total func(*psi) uint64) metric {
			return metric{"container_pressure_" + res.name + "_" + kind + "_seconds_total", help, counter, nil, func(s *sample, emit emit) {
				if p := res.get(s); p != nil {
					emit(seconds(total(p)))
				}
			}}
		}
		out = append(out,
			row("stalled", "Time in which no task got on for want of "+res.name+", in seconds.", func(p *psi) uint64 { return p.full.total }),
			row("waiting", "Time in which some task waited for "+res.name+", in seconds.", func(p *psi) uint64 { return p.some.total }))
	}
	return out
}

func otherMetrics() []metric {
	return []metric{
		{
			"container_oom_events_total", "Processes that the kernel killed for want of memory.", counter, nil,
			ofMemory(func(m *memory) *uint64 { return m.oomKills }),
		},
		{"container_last_seen", "When this was measured, in seconds since 1970.", gauge, nil, func(s *sample, emit emit) {
			emit(uint64(s.now.Unix()))
		}},
		{"container_start_time_seconds", "When the container was started, in seconds since 1970.", gauge, nil, func(s *sample, emit emit) {
			if s.container != nil && !s.container.StartedAt.IsZero() {
				emit(uint64(s.container.StartedAt.Unix()))
			}
		}},
	}
}
