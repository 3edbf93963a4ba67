// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"strconv"
	"strings"
)

func (r *reader) usageV1(d dirs, what detail) usage {
	u := usage{
		cpu:    r.cpuV1(d),
		memory: r.memoryV1(d),
		io:     ioUsage{psi: r.pressure(d.unified, "io.pressure")},
	}
	if what != ofContainer {
		u.tasks = r.number(d.v1("pids"), "pids.current")
	}
	if what == everything {
		r.cpuFullV1(d, u.cpu)
		r.memoryFullV1(d, u.memory)
		u.io.devices = r.devicesV1(d.v1("blkio"))
		u.tasksMax = unlimitedIsZero(r.number(d.v1("pids"), "pids.max"))
		u.huge = r.hugepages(d.v1("hugetlb"), ".usage_in_bytes", ".max_usage_in_bytes")
	}
	return u
}

func (r *reader) cpuV1(d dirs) *cpu {
	total := r.number(d.v1("cpuacct"), "cpuacct.usage")
	if total == nil {
		return nil
	}
	return &cpu{usage: *total, psi: r.pressure(d.unified, "cpu.pressure")} // pressure: on hybrid layouts only
}

func (r *reader) cpuFullV1(d dirs, c *cpu) {
	if c == nil {
		return
	}
	dir := d.v1("cpuacct")
	if v := r.number(dir, "cpuacct.usage_user"); v != nil {
		c.user = *v
	}
	if v := r.number(dir, "cpuacct.usage_sys"); v != nil {
		c.system = *v
	}
	flat(r.file(d.v1("cpu"), "cpu.stat"), func(key string, v uint64) {
		switch key {
		case "nr_periods":
			c.periods = v
		case "nr_throttled":
			c.throttled = v
		case "throttled_time":
			c.stopped = v
		}
	})
}

// memoryV1 takes limits and swap from memory.stat as well, so two files do.
func (r *reader) memoryV1(d dirs) *memory {
	dir := d.v1("memory")
	current := r.number(dir, "memory.usage_in_bytes")
	if current == nil {
		return nil
	}
	m := memory{usage: *current, limit: noLimit}
	var inactive, swap uint64
	both := uint64(noLimit)
	flat(r.file(dir, "memory.stat"), func(key string, v uint64) {
		switch key {
		case "pgfault":
			m.ownFaults = v
		case "pgmajfault":
			m.ownMajorFaults = v
		case "hierarchical_memory_limit":
			m.limit = v
		case "hierarchical_memsw_limit": // there when swap is accounted
			both, m.swap = v, &swap
		case "total_rss":
			m.rss = v
		case "total_cache":
			m.cache = v
		case "total_mapped_file":
			m.mapped = v
		case "total_inactive_file":
			inactive = v
		case "total_swap":
			swap = v
		case "total_pgfault":
			m.faults = v
		case "total_pgmajfault":
			m.majorFaults = v
		}
	})
	m.workingSet = less(m.usage, inactive)
	if m.swap != nil && both < noLimit && m.limit < noLimit {
		left := less(both, m.limit)
		m.swapLimit = &left
	}
	m.psi = r.pressure(d.unified, "memory.pressure")
	return &m
}

func (r *reader) memoryFullV1(d dirs, m *memory) {
	if m == nil {
		return
	}
	dir := d.v1("memory")
	m.kernel = r.number(dir, "memory.kmem.usage_in_bytes")
	m.max = r.number(dir, "memory.max_usage_in_bytes")
	m.failures = r.number(dir, "memory.failcnt")
	if raw := r.file(dir, "memory.oom_control"); raw != nil {
		flat(raw, func(key string, v uint64) {
			if key == "oom_kill" { // Linux 4.13
				m.oomKills = &v
			}
		})
	}
}

// devicesV1 reads the counters that count without an I/O policy too: lines such as "8:0 Read 4096", and a last "Total".
func (r *reader) devicesV1(dir string) []device {
	var out []device
	at := func(number string) *device {
		d, ok := newDevice(number)
		if !ok {
			return nil
		}
		for i := range out {
			if out[i].major == d.major && out[i].minor == d.minor {
				return &out[i]
			}
		}
		out = append(out, d)
		return &out[len(out)-1]
	}
	each := func(file string, f func(d *device, op string, v uint64)) {
		for line := range bytes.Lines(r.file(dir, file)) {
			fields := strings.Fields(string(line))
			if len(fields) != 3 {
				continue
			}
			v, err := strconv.ParseUint(fields[2], 10, 64)
			if d := at(fields[0]); d != nil && err == nil {
				f(d, fields[1], v)
			}
		}
	}
	each("blkio.throttle.io_service_bytes_recursive", (*device).setBytes)
	each("blkio.throttle.io_serviced_recursive", func(d *device, op string, v uint64) {
		switch op {
		case "Read":
			d.reads = v
		case "Write":
			d.writes = v
		}
	})
	return out
}

func (d *device) setBytes(op string, v uint64) {
	switch op {
	case "Read":
		d.readBytes = v
	case "Write":
		d.writeBytes = v
	case "Discard":
		d.discardBytes, d.hasDiscards = v, true
	case "Sync":
		d.syncBytes, d.hasSync = v, true
	case "Async":
		d.asyncBytes = v
	}
}
