// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

func (r *reader) usageV2(d dirs, what detail) usage {
	dir := d.unified
	u := usage{
		cpu:    r.cpuV2(dir),
		memory: r.memoryV2(dir),
		io:     ioUsage{psi: r.pressure(dir, "io.pressure")},
	}
	if what != ofContainer {
		u.tasks = r.number(dir, "pids.current")
	}
	if what == everything {
		r.memoryFullV2(dir, u.memory)
		u.io.devices = r.devicesV2(dir)
		u.tasksMax = unlimitedIsZero(r.number(dir, "pids.max"))
		u.huge = r.hugepages(dir, ".current", ".max_usage_in_bytes")
	}
	return u
}

func (r *reader) cpuV2(dir string) *cpu {
	raw := r.file(dir, "cpu.stat")
	if raw == nil {
		return nil
	}
	var c cpu
	flat(raw, func(key string, v uint64) {
		switch key {
		case "usage_usec":
			c.usage = v * 1000
		case "user_usec":
			c.user = v * 1000
		case "system_usec":
			c.system = v * 1000
		case "nr_periods":
			c.periods = v
		case "nr_throttled":
			c.throttled = v
		case "throttled_usec":
			c.stopped = v * 1000
		}
	})
	c.psi = r.pressure(dir, "cpu.pressure")
	return &c
}

func (r *reader) memoryV2(dir string) *memory {
	current := r.number(dir, "memory.current")
	if current == nil {
		return nil
	}
	m := memory{usage: *current, limit: noLimit}
	var inactive, kernel, parts uint64
	flat(r.file(dir, "memory.stat"), func(key string, v uint64) {
		switch key {
		case "anon":
			m.rss = v
		case "file":
			m.cache = v
		case "file_mapped":
			m.mapped = v
		case "inactive_file":
			inactive = v
		case "kernel": // Linux 5.18; its parts are there before
			kernel = v
		case "kernel_stack", "pagetables", "percpu", "vmalloc", "slab":
			parts += v
		case "pgfault":
			m.faults = v
		case "pgmajfault":
			m.majorFaults = v
		}
	})
	if kernel == 0 {
		kernel = parts
	}
	m.kernel = &kernel
	m.ownFaults, m.ownMajorFaults = m.faults, m.majorFaults // v2 counts whole trees only
	m.workingSet = less(m.usage, inactive)
	if v := r.number(dir, "memory.max"); v != nil {
		m.limit = *v
	}
	m.swap, m.swapLimit = r.number(dir, "memory.swap.current"), r.number(dir, "memory.swap.max")
	m.psi = r.pressure(dir, "memory.pressure")
	return &m
}

func (r *reader) memoryFullV2(dir string, m *memory) {
	if m == nil {
		return
	}
	if m.max = r.number(dir, "memory.peak"); m.max == nil { // not there before Linux 5.19: the present value is a lower bound
		m.max = &m.usage
	}
	if raw := r.file(dir, "memory.events"); raw != nil {
		m.failures, m.oomKills = new(uint64), new(uint64)
		flat(raw, func(key string, v uint64) {
			switch key {
			case "max":
				*m.failures = v
			case "oom_kill":
				*m.oomKills = v
			}
		})
	}
}

// devicesV2 reads lines such as "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0".
func (r *reader) devicesV2(dir string) []device {
	var out []device
	for line := range bytes.Lines(r.file(dir, "io.stat")) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue // a device that only has a past has no counters
		}
		d, ok := newDevice(fields[0])
		if !ok {
			continue
		}
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			if v, err := strconv.ParseUint(value, 10, 64); err == nil {
				d.set(key, v)
			}
		}
		out = append(out, d)
	}
	return out
}

func newDevice(number string) (device, bool) {
	major, minor, _ := strings.Cut(number, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return device{major: uint32(a), minor: uint32(b)}, err1 == nil && err2 == nil
}

func (d *device) set(key string, v uint64) {
	switch key {
	case "rbytes":
		d.readBytes = v
	case "wbytes":
		d.writeBytes = v
	case "rios":
		d.reads = v
	case "wios":
		d.writes = v
	case "dbytes":
		d.discardBytes, d.hasDiscards = v, true
	case "dios":
		d.discards = v
	}
}

// hugepages reads hugetlb.SIZE.current (v2; no peak is kept there) or hugetlb.SIZE.usage_in_bytes (v1).
func (r *reader) hugepages(dir, suffix, peak string) []hugepage {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []hugepage
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), "hugetlb.")
		size, ok2 := strings.CutSuffix(rest, suffix)
		if !ok || !ok2 || strings.Contains(size, ".") { // not "2MB.rsvd"
			continue
		}
		usage := r.number(dir, e.Name())
		if usage == nil {
			continue
		}
		h := hugepage{size: size, usage: *usage, max: *usage}
		if v := r.number(dir, "hugetlb."+size+peak); v != nil {
			h.max = *v
		}
		out = append(out, h)
	}
	return out
}

func unlimitedIsZero(v *uint64) *uint64 {
	if v != nil && *v >= noLimit {
		*v = 0
	}
	return v
}
