// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// limits reads what the kernel has of a container's limits.
func limits(t *testing.T, d *nodetest.Node, id string) (memory, cpu, cpus string) {
	t.Helper()
	path := info(t, d, id).CgroupsPath
	quota := cgroupFile(t, path, "cpu", "cpu.cfs_quota_us", "cpu.max")
	return cgroupFile(t, path, "memory", "memory.limit_in_bytes", "memory.max"), strings.Split(quota, " ")[0], cgroupFile(t, path, "cpuset", "cpuset.cpus", "cpuset.cpus")
}

func TestResources(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "resources")
	c := inHostNet("app", "sleep")
	c.Linux.Resources = &cri.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0", OomScoreAdj: 500,
	}
	id := d.Run(t, pod, c, p)
	check := func(id string, memory int, cpu, cpus string) {
		t.Helper()
		m, q, s := limits(t, d, id)
		if m != strconv.Itoa(memory) || q != cpu || s != cpus {
			t.Errorf("the cgroup has memory %s, quota %s, cpus %s; want %d, %s, %s", m, q, s, memory, cpu, cpus)
		}
		r := d.Status(t, id).Resources.GetLinux()
		if r.GetMemoryLimitInBytes() != int64(memory) || fmt.Sprint(r.GetCpuQuota()) != cpu || r.GetCpusetCpus() != cpus || r.GetCpuShares() != 512 {
			t.Errorf("the status has %v", r)
		}
	}
	check(id, 64<<20, "50000", "0")
	if adj := strings.TrimSpace(exec(t, d, id, "read", "/proc/1/oom_score_adj")); adj != "500" {
		t.Errorf("oom_score_adj is %s", adj)
	}
	update := func(id string, r *cri.LinuxContainerResources) {
		t.Helper()
		if _, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: r}); err != nil {
			t.Error(err)
		}
	}
	update(id, &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 20000})
	check(id, 96<<20, "20000", "0")
	update(id, &cri.LinuxContainerResources{MemoryLimitInBytes: 80 << 20}) // the rest stays
	check(id, 80<<20, "20000", "0")

	created := clone(c)
	created.Metadata.Name, created.LogPath = "created", "created.log"
	later := d.Create(t, pod, created, p)
	update(later, &cri.LinuxContainerResources{MemoryLimitInBytes: 48 << 20, CpuQuota: 30000})
	if r := d.Status(t, later).Resources.GetLinux(); r.GetMemoryLimitInBytes() != 48<<20 || r.GetCpuShares() != 512 {
		t.Errorf("status of an updated container that was never started: %v", r)
	}
	if _, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: later}); err != nil {
		t.Fatal(err)
	}
	check(later, 48<<20, "30000", "0")
	t.Run("survives a restart", func(t *testing.T) {
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := d.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(id, 80<<20, "20000", "0")
	})
}

// Every field of an update is in force while the container runs, alone and beside
// what earlier ones set, and in its status.
func TestEachFieldOfAnUpdate(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two processors: it moves a container from one to the other")
	}
	d := node(t)
	pod, p := quickPod(t, d, "fields")
	c := inHostNet("app", "sleep")
	c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0-1", CpusetMems: "0"}
	id := d.Run(t, pod, c, p)
	path := info(t, d, id).CgroupsPath
	inForce := func() string {
		return strings.Join([]string{
			cgroupFile(t, path, "cpu", "cpu.cfs_period_us", "cpu.max"), cgroupFile(t, path, "cpu", "cpu.cfs_quota_us", "cpu.max"),
			cgroupFile(t, path, "cpu", "cpu.shares", "cpu.weight"), cgroupFile(t, path, "memory", "memory.limit_in_bytes", "memory.max"),
			cgroupFile(t, path, "cpuset", "cpuset.cpus", "cpuset.cpus"), cgroupFile(t, path, "cpuset", "cpuset.mems", "cpuset.mems"),
		}, " ")
	}
	v1 := "100000 50000 512 67108864 0-1 0"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		v1 = ""
	}
	if got := inForce(); v1 != "" && got != v1 {
		t.Fatalf("in force at first: %s, want %s", got, v1)
	}
	want := proto.Clone(c.Linux.Resources).(*cri.LinuxContainerResources)
	for _, step := range []struct {
		update *cri.LinuxContainerResources
		v1     string
	}{
		{&cri.LinuxContainerResources{CpuPeriod: 50000}, "50000 50000 512 67108864 0-1 0"},
		{&cri.LinuxContainerResources{CpuQuota: 20000}, "50000 20000 512 67108864 0-1 0"},
		{&cri.LinuxContainerResources{CpuShares: 700}, "50000 20000 700 67108864 0-1 0"},
		{&cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}, "50000 20000 700 100663296 0-1 0"},
		{&cri.LinuxContainerResources{CpusetCpus: "1"}, "50000 20000 700 100663296 1 0"},
		{&cri.LinuxContainerResources{CpusetMems: "0", CpuQuota: -1}, "50000 -1 700 100663296 1 0"},
	} {
		before := inForce()
		if _, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: step.update}); err != nil {
			t.Fatalf("%v: %v", step.update, err)
		}
		if got := inForce(); v1 != "" && got != step.v1 || got == before {
			t.Errorf("%v makes %s of %s, want %s", step.update, got, before, step.v1)
		}
		proto.Merge(want, step.update)
		if got := d.Status(t, id).Resources.GetLinux(); !proto.Equal(got, want) {
			t.Errorf("status %v, want %v", got, want)
		}
	}
}

// An update of oom_score_adj reaches the processes that run, their children
// included; the status says what they have.
func TestUpdateOOMScore(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "oom-update")
	c := inHostNet("app", "tree", "1000")
	c.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: 900}
	id := d.Run(t, pod, c, p)
	nodetest.Eventually(t, patience, "three processes", func() bool { return len(processesOf(t, d, id)) == 3 })
	chose := processesOf(t, d, id)[2]
	mustWrite(t, fmt.Sprintf("/proc/%d/oom_score_adj", chose), "300")
	for _, want := range []int64{950, 920, -997, 0} {
		r := &cri.LinuxContainerResources{OomScoreAdj: want}
		if want == 0 { // says nothing
			r.CpuShares = 100
		}
		if _, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: r}); err != nil {
			t.Fatal(err)
		}
		said := strconv.FormatInt(d.Status(t, id).Resources.GetLinux().GetOomScoreAdj(), 10)
		for _, pid := range processesOf(t, d, id) {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
			got := strings.TrimSpace(string(data))
			if pid == chose {
				if got != "300" {
					t.Errorf("a process that chose 300 has %s", got)
				}
				continue
			}
			if err != nil || got != said || want > 0 && got != fmt.Sprint(want) {
				t.Errorf("asked for %d: process %d has %s, the status says %s, %v", want, pid, got, said, err)
			}
		}
		execHasScore(t, d, id, said)
	}
}

// execHasScore runs a command and waits until it has that oom_score_adj.
func execHasScore(t *testing.T, d *nodetest.Node, id, want string) {
	t.Helper()
	before := processesOf(t, d, id)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{tb, "sleep"}})
	}()
	nodetest.Eventually(t, patience, "a command has the oom_score_adj "+want, func() bool {
		for _, pid := range processesOf(t, d, id) {
			data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
			if !slices.Contains(before, pid) && strings.TrimSpace(string(data)) == want {
				return true
			}
		}
		return false
	})
	cancel()
	<-ended
	nodetest.Eventually(t, patience, "the command is gone", func() bool { return len(processesOf(t, d, id)) == len(before) })
}

// processesOf are the host's numbers of a container's processes, those of
// commands among them, in order.
func processesOf(t *testing.T, d *nodetest.Node, id string) (pids []int) {
	t.Helper()
	for _, top := range cgroup.Dirs(info(t, d, id).CgroupsPath) {
		err := filepath.WalkDir(top, func(dir string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil // gone since
			}
			data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for line := range strings.FieldsSeq(string(data)) {
				pid, err := strconv.Atoi(line)
				if err != nil {
					return err
				}
				pids = append(pids, pid)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// Limits that this machine cannot give are clamped, not refused: the lowest
// oom_score_adj is the daemon's own where it may not go lower.
func TestOOMScoreIsClamped(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "clamp")
	c := inHostNet("low", "sleep")
	c.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: -997}
	id := d.Run(t, pod, c, p)
	got, err := strconv.Atoi(strings.TrimSpace(exec(t, d, id, "read", "/proc/1/oom_score_adj")))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", d.PID()))
	if err != nil {
		t.Fatal(err)
	}
	lowest, err := strconv.Atoi(strings.TrimSpace(string(own)))
	if err != nil || got != -997 && got != lowest {
		t.Errorf("oom_score_adj is %d, want -997 or the daemon's %d", got, lowest)
	}
	if said := d.Status(t, id).Resources.GetLinux().GetOomScoreAdj(); said != int64(got) {
		t.Errorf("the status says %d, the kernel %d", said, got)
	}
}

// Containers have the same rlimits however the daemon was started.
func TestRlimitsAreNotTheDaemons(t *testing.T) {
	read := func(d *nodetest.Node) string {
		pod, p := quickPod(t, d, "rlimits")
		var out []string
		for line := range strings.Lines(exec(t, d, d.Run(t, pod, inHostNet("app", "sleep"), p), "read", "/proc/1/limits")) {
			if strings.HasPrefix(line, "Max open files") || strings.HasPrefix(line, "Max core") || strings.HasPrefix(line, "Max processes") {
				out = append(out, strings.Join(strings.Fields(line), " "))
			}
		}
		return strings.Join(out, "; ")
	}
	plain := read(node(t))
	d := nodetest.New(t, nodetest.Preload(t))
	// A soft limit that a service manager may have set.
	script := d.Dir + "/limited"
	if err := os.WriteFile(script, []byte(fmt.Sprintf("#!/bin/sh\nulimit -S -n 512\nulimit -S -c 1\nexec %s \"$@\"\n", nodetest.Bin(t, "cri-shim"))), 0o755); err != nil {
		t.Fatal(err)
	}
	d.Program = script
	d.StartFor(t)
	d.AwaitImage(t, nodetest.TestImage)
	if limited := read(d); limited != plain || !strings.Contains(plain, "Max open files") {
		t.Errorf("limits %q, with a limited daemon %q", plain, limited)
	}
}

// The pod's cgroup is the kubelet's to limit: an update is noted, and told to
// plugins. Containers are inside, and counted.
func TestPodResources(t *testing.T) {
	d := node(t)
	config := hostNet(d.PodConfig("pod-resources"))
	pod := d.Pod(t, config)
	id := d.Run(t, pod, inHostNet("app", "sleep"), config)
	if _, err := d.Runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20},
	}); err != nil {
		t.Fatal(err)
	}
	path := info(t, d, id).CgroupsPath
	if config.Linux.CgroupParent == "" && !strings.HasPrefix(path, "/cri-"+pod) {
		t.Errorf("the container's cgroup is %s, not in the pod's", path)
	}
	s, err := d.Runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil || s.Stats.Linux.Memory.GetWorkingSetBytes().GetValue() == 0 || len(s.Stats.Linux.Containers) != 1 {
		t.Errorf("stats %v, %v", s, err)
	}
}

// The kernel takes CPU shares out of its range for the nearest in it, and so does the daemon, which says so.
func TestSharesOutOfRange(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "shares")
	c := inHostNet("app", "sleep")
	c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 1}
	id := d.Run(t, pod, c, p)
	check := func(want int64) {
		t.Helper()
		if got := d.Status(t, id).Resources.GetLinux().GetCpuShares(); got != want {
			t.Errorf("the status has %d shares, want %d", got, want)
		}
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			return // the runtime makes a weight of them
		}
		if got := cgroupFile(t, info(t, d, id).CgroupsPath, "cpu", "cpu.shares", ""); got != fmt.Sprint(want) {
			t.Errorf("the cgroup has %s shares, want %d", got, want)
		}
	}
	check(2)
	for shares, want := range map[int64]int64{262145: 262144, 1 << 40: 262144, 1: 2, 100: 100} {
		_, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: shares},
		})
		if err != nil {
			t.Error(err)
		}
		check(want)
	}
	if _, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id}); err != nil {
		t.Errorf("an update of nothing: %v", err)
	}
	for _, r := range []*cri.LinuxContainerResources{{CpuShares: -1}, {CpuPeriod: 999}, {CpuQuota: 999}, {MemoryLimitInBytes: -2}} {
		_, err := d.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		code(t, err, codes.InvalidArgument, "linux.resources.")
		_, err = d.Runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: r})
		code(t, err, codes.InvalidArgument, "linux.resources.")
	}
}
