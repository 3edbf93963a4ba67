// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where the hierarchies of cgroups are mounted.
const CgroupRoot = "/sys/fs/cgroup"

// Facts is what the machine allows, read once at start. It is a plain value, so that everything derived from it can be
// tested on any machine.
type Facts struct {
	CgroupV2       bool     // one unified hierarchy; false for v1 and for hybrid layouts
	Systemd        bool     // systemd is the init of this machine
	Capabilities   []string // bounding set, CAP_ names
	OOMScoreAdjMin int      // the lowest oom_score_adj a child of this process may be given
	Seccomp        bool
	AppArmor       bool
	SELinux        bool
	SysReadOnly    bool     // /sys is mounted read-only, as in a container
	SwapAccounting bool     // swap of a cgroup can be limited
	HugepageSizes  []string // sizes the hugetlb controller limits, as "2MB", "1GB"
	CPUs           int      // processors this process may run on
	// RlimitMax is the highest hard limit a child may be given, by RLIMIT_ name.
	RlimitMax map[string]uint64
}

// ReadFacts reads the facts of this machine.
func ReadFacts() (Facts, error) {
	f := Facts{Seccomp: seccompEnabled(), AppArmor: AppArmorEnabled(), SELinux: selinuxEnabled(), CPUs: runtime.NumCPU()}
	var err error
	if f.CgroupV2, err = CgroupUnified(); err != nil {
		return Facts{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys", &st); err != nil {
		return Facts{}, fmt.Errorf("read state of /sys: %w", err)
	}
	f.SysReadOnly = st.Flags&unix.ST_RDONLY != 0
	// The documented test of sd_booted(3).
	if fi, err := os.Lstat("/run/systemd/system"); err == nil {
		f.Systemd = fi.IsDir()
	}
	effective, err := effectiveSet()
	if err != nil {
		return Facts{}, err
	}
	if f.Capabilities, err = boundingSet(); err != nil {
		return Facts{}, err
	}
	// Both limits below are guarded by the capability in the first user namespace only.
	resource := slices.Contains(effective, "CAP_SYS_RESOURCE") && inFirstUserNS()
	if f.OOMScoreAdjMin, err = oomScoreAdjMin(resource); err != nil {
		return Facts{}, err
	}
	if f.RlimitMax, err = rlimitMax(resource); err != nil {
		return Facts{}, err
	}
	f.SwapAccounting = swapAccounting(f.CgroupV2)
	f.HugepageSizes, err = hugepageSizes(f.CgroupV2)
	return f, err
}

// CgroupUnified reports whether all of CgroupRoot is the one hierarchy of cgroup v2.
func CgroupUnified() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(CgroupRoot, &st); err != nil {
		return false, fmt.Errorf("read cgroup version: %w", err)
	}
	return st.Type == unix.CGROUP2_SUPER_MAGIC, nil
}

func inFirstUserNS() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(raw)), []string{"0", "0", "4294967295"})
}

// oomScoreAdjMin is this process's own value when it is not privileged to lower it. The kernel may allow somewhat
// less, but keeps that figure to itself, and trying would change the very process that asks.
func oomScoreAdjMin(privileged bool) (int, error) {
	if privileged {
		return -1000, nil
	}
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read own oom_score_adj: %w", err)
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, fmt.Errorf("parse own oom_score_adj: %w", err)
	}
	return own, nil
}

func rlimitMax(privileged bool) (map[string]uint64, error) {
	limits := map[string]uint64{}
	for name, resource := range map[string]int{
		"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_STACK": unix.RLIMIT_STACK,
	} {
		limits[name] = unix.RLIM_INFINITY
		if privileged {
			continue
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(resource, &own); err != nil {
			return nil, fmt.Errorf("read own %s: %w", name, err)
		}
		limits[name] = own.Max
	}
	// fs.nr_open binds even the privileged.
	raw, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return nil, fmt.Errorf("read fs.nr_open: %w", err)
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("parse fs.nr_open: %w", err)
	}
	limits["RLIMIT_NOFILE"] = min(limits["RLIMIT_NOFILE"], most)
	return limits, nil
}

// swapAccounting looks for the limit file in a cgroup that has the memory controller: the root of v2 has no limit
// files, so the first child that has memory.max decides. Without any, the kernel's default (on) is assumed.
func swapAccounting(v2 bool) bool {
	if !v2 {
		_, err := os.Stat(filepath.Join(CgroupRoot, "memory/memory.memsw.limit_in_bytes"))
		return err == nil
	}
	limited, err := filepath.Glob(filepath.Join(CgroupRoot, "*/memory.max"))
	if err != nil || len(limited) == 0 {
		return true
	}
	_, err = os.Stat(filepath.Join(filepath.Dir(limited[0]), "memory.swap.max"))
	return err == nil
}

// hugepageSizes names the page sizes as the hugetlb controller's files do; empty without that controller.
func hugepageSizes(v2 bool) ([]string, error) {
	if !hasHugetlb(v2) {
		return nil, nil
	}
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list hugepage sizes: %w", err)
	}
	var sizes []string
	for _, e := range entries {
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		sizes = append(sizes, HugepageName(kib<<10))
	}
	return sizes, nil
}

func hasHugetlb(v2 bool) bool {
	if !v2 {
		_, err := os.Stat(filepath.Join(CgroupRoot, "hugetlb"))
		return err == nil
	}
	raw, err := os.ReadFile(filepath.Join(CgroupRoot, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(raw)), "hugetlb")
}

// HugepageName writes a page size in bytes the way the kernel names the hugetlb controller's files: 64KB, 2MB, 1GB.
func HugepageName(bytes uint64) string {
	for _, unit := range []struct {
		shift uint
		name  string
	}{{30, "GB"}, {20, "MB"}} {
		if bytes >= 1<<unit.shift {
			return strconv.FormatUint(bytes>>unit.shift, 10) + unit.name
		}
	}
	return strconv.FormatUint(bytes>>10, 10) + "KB"
}

// BootID is the kernel's id of this boot.
func BootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
