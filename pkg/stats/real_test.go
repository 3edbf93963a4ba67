// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cri-shim/cri-shim/pkg/stats"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// realCgroup makes a cgroup on the machine, whatever versions it has, and puts a process into it.
func realCgroup(t testing.TB, name string, pid int) (v2 bool) {
	t.Helper()
	var st unix.Statfs_t
	v2 = unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	if v2 {
		raw, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		for c := range strings.FieldsSeq(string(raw)) {
			_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+c), 0o600)
		}
	}
	for _, dir := range cgroup.Dirs("/" + name) {
		if strings.HasSuffix(filepath.Dir(dir), "cpuset") {
			continue // wants its CPUs set first
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for range 100 {
				if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("left: cgroup %s", dir)
		})
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return v2
}

// TestRealContainer measures a process that works, holds memory and writes, in a network namespace of its own.
func TestRealContainer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	dir := t.TempDir()
	pinned := dir + "/cri-netns"
	must(t, netns.New(pinned))
	t.Cleanup(func() { must(t, netns.Remove(pinned)) })
	var child *exec.Cmd
	must(t, netns.In(pinned, func() error {
		eth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "far"}
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}
		addr, err := netlink.ParseAddr("10.1.1.1/24")
		if err != nil {
			return err
		}
		if err := firstOf(netlink.LinkSetUp(lo), netlink.LinkAdd(eth), netlink.AddrAdd(eth, addr), netlink.LinkSetUp(eth)); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("far")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(peer); err != nil {
			return err
		}
		child = exec.Command("/bin/sh", "-c", "read x; (while :; do :; done) & exec 7</dev/null; head -c 8000000 /dev/zero > "+dir+"/file; read y")
		stdin, err := child.StdinPipe()
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = stdin.Close() })
		child.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
		if err := child.Start(); err != nil {
			return err
		}
		conn, err := net.Dial("udp", "10.1.1.9:9")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello")) // at least the question for the neighbour's address goes out
		if err != nil {
			return err
		}
		v2 := realCgroup(t, "cri-stats-test", child.Process.Pid)
		t.Cleanup(func() { _ = unix.Kill(-child.Process.Pid, unix.SIGKILL); _ = child.Wait() })
		_, err = stdin.Write([]byte("\n"))
		measureReal(t, v2, pinned, child.Process.Pid)
		return err
	}))
}

func measureReal(t *testing.T, v2 bool, pinned string, pid int) {
	t.Helper()
	s := stats.New(stats.Options{CgroupV2: v2})
	c := container()
	c.Cgroup, c.PID = "/cri-stats-test", pid
	p := pod()
	p.CgroupParent, p.NetNS, p.PID, p.Containers = "/cri-stats-test", pinned, pid, []stats.Container{c}
	settled := func() bool { // the loop runs, the writer is done, a window is over
		got := single(t, s.Pods, p).GetLinux()
		cpu := got.GetContainers()[0].GetCpu()
		return cpu.GetUsageCoreNanoSeconds().GetValue() > 12e8 && cpu.GetUsageNanoCores().GetValue() > 5e7 && got.GetProcess().GetProcessCount().GetValue() == 2
	}
	for deadline := time.Now().Add(20 * time.Second); !settled(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not settled: %s", protojson.Format(single(t, s.Pods, p)))
		}
	}
	got := single(t, s.Pods, p).GetLinux()
	one := got.GetContainers()[0]
	for what, ok := range map[string]bool{
		"cpu":         got.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 1e9,
		"rate":        one.GetCpu().GetUsageNanoCores().GetValue() > 5e7 && one.GetCpu().GetUsageNanoCores().GetValue() < 4e9,
		"memory":      got.GetMemory().GetUsageBytes().GetValue() > 4<<10,
		"working set": got.GetMemory().GetWorkingSetBytes().GetValue() <= got.GetMemory().GetUsageBytes().GetValue(),
		"faults":      got.GetMemory().GetPageFaults().GetValue() > 10,
		"processes":   got.GetProcess().GetProcessCount().GetValue() == 2,
		"interface":   got.GetNetwork().GetDefaultInterface().GetName() == "eth0" && got.GetNetwork().GetDefaultInterface().GetTxBytes().GetValue() > 0,
		"all":         len(got.GetNetwork().GetInterfaces()) == 2 && got.GetNetwork().GetInterfaces()[0].GetName() == "far",
	} {
		if !ok {
			t.Errorf("v2 %v: %s: %s", v2, what, protojson.Format(got))
		}
	}
	p.PID = 0 // nobody in the namespace: through its path
	if n := single(t, s.Pods, p).GetLinux().GetNetwork(); n.GetDefaultInterface().GetTxBytes().GetValue() == 0 {
		t.Errorf("network through the path: %v", n)
	}
	everyName(t, s, p, v2)
}

// everyName fails for each of the expected metrics that a real pod does not get here, but for those that this kernel
// can't have.
func everyName(t *testing.T, s *stats.Service, p stats.Pod, v2 bool) {
	t.Helper()
	all := single(t, s.Metrics, p)
	got := series(t, s, all.GetContainerMetrics()[0].GetMetrics())
	maps.Copy(got, series(t, s, all.GetMetrics()))
	for name := range strings.FieldsSeq(expected) {
		found := false
		for n := range got {
			found = found || strings.HasPrefix(n, name+"{")
		}
		if kernel := optional(name, v2); !found && kernel == "" {
			t.Errorf("v2 %v: no %s", v2, name)
		} else if !found {
			t.Logf("%s: %s", name, kernel)
		}
	}
	for name, ok := range map[string]bool{
		"container_processes{}":                         got["container_processes{}"] == 2,
		"container_file_descriptors{}":                  got["container_file_descriptors{}"] >= 6,
		"container_ulimits_soft{ulimit=max_open_files}": got["container_ulimits_soft{ulimit=max_open_files}"] > 10,
	} {
		if !ok {
			t.Errorf("v2 %v: %s is %d", v2, name, got[name])
		}
	}
}

// optional says why a kernel may not have a figure.
func optional(name string, v2 bool) string {
	missing := func(path string) bool { _, err := os.Stat(path); return err != nil }
	raw, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	switch {
	case strings.Contains(name, "hugetlb") && (v2 && !bytes.Contains(raw, []byte("hugetlb")) || !v2 && missing("/sys/fs/cgroup/hugetlb")):
		return "no hugetlb controller"
	case strings.Contains(name, "pressure") && missing("/proc/pressure/cpu"):
		return "no pressure stall information"
	case strings.Contains(name, "pressure") && !v2 && missing("/sys/fs/cgroup/unified/cpu.pressure"):
		return "no pressure stall information on cgroup v1"
	}
	return ""
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkPods is what one ListPodSandboxStats and one ListPodSandboxMetrics of 100 pods cost, in real cgroups.
func BenchmarkPods(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("cgroups need root")
	}
	pinned := b.TempDir() + "/cri-netns"
	if err := netns.New(pinned); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = netns.Remove(pinned) }()
	child := exec.Command("sleep", "600")
	child.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	v2 := realCgroup(b, "cri-stats-bench", child.Process.Pid)
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	s := stats.New(stats.Options{CgroupV2: v2})
	pods := make([]stats.Pod, 100)
	for i := range pods {
		c := container()
		c.ID, c.Cgroup, c.PID = fmt.Sprintf("c%d", i), "/cri-stats-bench", child.Process.Pid
		pods[i] = pod()
		pods[i].ID, pods[i].CgroupParent, pods[i].PID, pods[i].NetNS = fmt.Sprintf("p%d", i), "/cri-stats-bench", child.Process.Pid, pinned
		pods[i].Containers = []stats.Container{c}
	}
	run := func(name string, one func(stats.Pod)) {
		b.Run(name, func(b *testing.B) {
			var before, after unix.Rusage
			_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
			for b.Loop() {
				for _, p := range pods {
					one(p)
				}
			}
			_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/1e6/float64(b.N), "cpu-ms/100pods")
		})
	}
	run("stats", func(p stats.Pod) { single(b, s.Pods, p) })
	run("metrics", func(p stats.Pod) { single(b, s.Metrics, p) })
}
