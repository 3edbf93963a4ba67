// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"math"
	"path/filepath"
	"strconv"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// usage is what one cgroup used; nil for what can't be known.
type usage struct {
	cpu    *cpu
	memory *memory
	io     ioUsage
	tasks  *uint64 // processes and threads
	huge   []hugepage

	tasksMax *uint64 // 0: no limit
}

type cpu struct {
	usage, user, system         uint64 // ns
	periods, throttled, stopped uint64 // stopped: ns
	psi                         *psi
}

type memory struct {
	usage, workingSet, rss, cache, mapped uint64
	faults, majorFaults                   uint64
	limit                                 uint64 // noLimit for none
	swap, swapLimit                       *uint64
	psi                                   *psi

	// for metrics only
	kernel, max, failures, oomKills *uint64
	ownFaults, ownMajorFaults       uint64 // without those of cgroups below
}

type ioUsage struct {
	psi     *psi
	devices []device
}

// device is what a cgroup did on one block device.
type device struct {
	major, minor                                  uint32
	readBytes, writeBytes, reads, writes          uint64
	discardBytes, discards, syncBytes, asyncBytes uint64
	hasDiscards, hasSync                          bool
}

type hugepage struct {
	size       string // as in the file name: 2MB
	usage, max uint64
}

type psi struct{ some, full pressure }

type pressure struct {
	avg10, avg60, avg300 float64
	total                uint64 // ns
}

// noLimit is from where on a limit means none: v1 writes the largest multiple of the page size.
const noLimit = math.MaxInt64 &^ (1<<20 - 1)

func (s *Service) containerDirs(c Container) dirs {
	if c.Cgroup == "" {
		return dirs{}
	}
	return s.dirs(cgroup.Path(c.Cgroup))
}

func (s *Service) podDirs(p Pod) dirs {
	if p.CgroupParent == "" {
		return dirs{}
	}
	return s.dirs(cgroup.ParentPath(p.CgroupParent))
}

func (s *Service) dirs(path string) dirs {
	if s.v2 {
		return dirs{path: path, unified: filepath.Join(s.root, path)}
	}
	return dirs{path: path, unified: filepath.Join(s.root, "unified", path), root: s.root}
}

// detail is how much of a cgroup to read.
type detail int

const (
	ofContainer detail = iota
	ofPod              // and the number of tasks
	everything         // and what only metrics need
)

func (s *Service) cgroupUsage(r *reader, d dirs, what detail) usage {
	if d.path == "" {
		return usage{}
	}
	if s.v2 {
		return r.usageV2(d, what)
	}
	return r.usageV1(d, what)
}

// file reads a cgroup's file; nil when there is none. The answer holds until the next call.
func (r *reader) file(dir, name string) []byte {
	raw, err := sys.ReadSmall(dir+"/"+name, *r.buf)
	if err != nil {
		return nil
	}
	if cap(raw) > cap(*r.buf) {
		*r.buf = raw[:cap(raw)]
	}
	return raw
}

// number reads a file of one number; "max" is noLimit.
func (r *reader) number(dir, name string) *uint64 {
	raw := bytes.TrimSpace(r.file(dir, name))
	if len(raw) == 0 {
		return nil
	}
	v := uint64(noLimit)
	if string(raw) != "max" {
		var err error
		if v, err = strconv.ParseUint(string(raw), 10, 64); err != nil {
			return nil
		}
	}
	return &v
}

// flat calls f for each "key value" line.
func flat(raw []byte, f func(key string, value uint64)) {
	for line := range bytes.Lines(raw) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if !ok {
			continue
		}
		if v, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			f(string(key), v)
		}
	}
}

// pressure reads a PSI file; nil where the kernel keeps none for cgroups.
func (r *reader) pressure(dir, name string) *psi {
	raw := r.file(dir, name)
	if len(raw) == 0 {
		return nil
	}
	var p psi
	for line := range bytes.Lines(raw) {
		kind, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		into := &p.some
		if string(kind) == "full" {
			into = &p.full
		}
		for pair := range bytes.SplitSeq(rest, []byte(" ")) {
			into.set(pair)
		}
	}
	return &p
}

func (p *pressure) set(pair []byte) {
	key, value, _ := bytes.Cut(pair, []byte("="))
	if string(key) == "total" {
		us, _ := strconv.ParseUint(string(value), 10, 64)
		p.total = us * 1000
		return
	}
	avg, err := strconv.ParseFloat(string(value), 64)
	if err != nil {
		return
	}
	switch string(key) {
	case "avg10":
		p.avg10 = avg
	case "avg60":
		p.avg60 = avg
	case "avg300":
		p.avg300 = avg
	}
}

// less is a - b, and 0 rather than below: the two were not read at the same instant.
func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
