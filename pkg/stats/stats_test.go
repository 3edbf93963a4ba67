// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/stats"
	"github.com/cri-shim/cri-shim/test/await"
)

func fixture(v2 bool) *stats.Service {
	root := "testdata/v1"
	if v2 {
		root = "testdata/v2"
	}
	return stats.New(stats.Options{CgroupV2: v2, CgroupRoot: root})
}

func container() stats.Container {
	return stats.Container{
		ID: "c1", Metadata: &cri.ContainerMetadata{Name: "web", Attempt: 2}, Image: "nginx:1",
		Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"},
		Cgroup: "/kubepods/pod1/c1", PID: os.Getpid(), StartedAt: time.Now().Add(-10 * time.Second),
		Resources: &cri.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 68 << 20},
		Disk: func(context.Context) (stats.Disk, error) {
			return stats.Disk{Mountpoint: "/", Bytes: 12345, Inodes: 6}, nil
		},
	}
}

func pod() stats.Pod {
	return stats.Pod{
		ID: "p1", Metadata: &cri.PodSandboxMetadata{Name: "web-0", Namespace: "shop", Uid: "u"}, CgroupParent: "/kubepods/pod1",
		CreatedAt: time.Now().Add(-10 * time.Second), Containers: []stats.Container{container()},
	}
}

// TestContainer reads the same figures from a tree of each cgroup version.
func TestContainer(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		got := single(t, fixture(v2).Containers, container())
		cpu, mem, swap := got.GetCpu(), got.GetMemory(), got.GetSwap()
		usage := uint64(7305182000)
		if !v2 {
			usage = 7305182123
		}
		for what, c := range map[string][2]uint64{
			"cpu":             {cpu.GetUsageCoreNanoSeconds().GetValue(), usage},
			"memory":          {mem.GetUsageBytes().GetValue(), 40 << 20},
			"working set":     {mem.GetWorkingSetBytes().GetValue(), 28 << 20},
			"available":       {mem.GetAvailableBytes().GetValue(), 36 << 20},
			"rss":             {mem.GetRssBytes().GetValue(), 20 << 20},
			"faults":          {mem.GetPageFaults().GetValue(), 9041},
			"major faults":    {mem.GetMajorPageFaults().GetValue(), 17},
			"swap":            {swap.GetSwapUsageBytes().GetValue(), 1 << 20},
			"swap left":       {swap.GetSwapAvailableBytes().GetValue(), 3 << 20},
			"layer bytes":     {got.GetWritableLayer().GetUsedBytes().GetValue(), 12345},
			"layer inodes":    {got.GetWritableLayer().GetInodesUsed().GetValue(), 6},
			"cpu psi, ns":     {cpu.GetPsi().GetSome().GetTotal(), 4123456000},
			"cpu psi full":    {cpu.GetPsi().GetFull().GetTotal(), 2000001000},
			"memory psi":      {mem.GetPsi().GetSome().GetTotal(), 1500000},
			"io psi":          {got.GetIo().GetPsi().GetFull().GetTotal(), 8000000000},
			"psi averages":    {uint64(cpu.GetPsi().GetSome().GetAvg10() * 100), 125},
			"io psi averages": {uint64(got.GetIo().GetPsi().GetSome().GetAvg60()*100 + 0.5), 31},
		} {
			if c[0] != c[1] {
				t.Errorf("v2 %v: %s: %d, want %d", v2, what, c[0], c[1])
			}
		}
		// Ten seconds old, 7.3 s used: the first reading already has a rate.
		if rate := cpu.GetUsageNanoCores().GetValue(); rate < 600e6 || rate > 740e6 {
			t.Errorf("v2 %v: rate %d", v2, rate)
		}
		for _, ts := range []int64{cpu.GetTimestamp(), mem.GetTimestamp(), swap.GetTimestamp(), got.GetIo().GetTimestamp(), got.GetWritableLayer().GetTimestamp()} {
			if time.Since(time.Unix(0, ts)).Abs() > time.Minute {
				t.Errorf("v2 %v: timestamp %d", v2, ts)
			}
		}
		if a := got.GetAttributes(); a.GetId() != "c1" || a.GetMetadata().GetName() != "web" || a.GetLabels()["l"] != "1" || a.GetAnnotations()["a"] != "2" {
			t.Errorf("attributes %v", a)
		}
	}
}

func TestPodWithoutLimits(t *testing.T) {
	got := single(t, fixture(true).Pods, pod())
	linux := got.GetLinux()
	if linux.GetMemory().GetAvailableBytes() != nil {
		t.Errorf("no limit, yet %v", linux.GetMemory())
	}
	if linux.GetMemory().GetWorkingSetBytes().GetValue() != 40<<20 || linux.GetCpu().GetUsageCoreNanoSeconds().GetValue() != 9e9 ||
		linux.GetProcess().GetProcessCount().GetValue() != 4 || len(linux.GetContainers()) != 1 {
		t.Errorf("pod %s", protojson.Format(got))
	}
	if linux.GetNetwork() != nil || linux.GetCpu().GetPsi() != nil || linux.GetIo() != nil {
		t.Errorf("figures that nobody has: %s", protojson.Format(got))
	}
	if a := got.GetAttributes(); a.GetId() != "p1" || a.GetMetadata().GetNamespace() != "shop" {
		t.Errorf("attributes %v", a)
	}
}

func TestEndedContainerHasIdentityAndDisk(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		c := container()
		c.Cgroup, c.PID = "/kubepods/pod1/gone", 0
		got := single(t, fixture(v2).Containers, c)
		if got.GetCpu() != nil || got.GetMemory() != nil || got.GetSwap() != nil || got.GetIo() != nil {
			t.Errorf("figures of a dead container: %s", protojson.Format(got))
		}
		if got.GetAttributes().GetId() != "c1" || got.GetWritableLayer().GetUsedBytes().GetValue() != 12345 {
			t.Errorf("%s", protojson.Format(got))
		}
	}
}

func TestSystemdPaths(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice", "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-shim-c1.scope"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
		must(t, os.WriteFile(filepath.Join(root, dir, "cpu.stat"), []byte("usage_usec "+map[bool]string{true: "2", false: "3"}[strings.HasSuffix(dir, "scope")]+"000000\n"), 0o600))
	}
	p := pod()
	p.CgroupParent = "kubepods-besteffort-pod1.slice"
	p.Containers[0].Cgroup = "kubepods-besteffort-pod1.slice:cri-shim:c1"
	got := single(t, stats.New(stats.Options{CgroupV2: true, CgroupRoot: root}).Pods, p)
	if c := got.GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue(); c != 3e9 {
		t.Errorf("pod %d", c)
	}
	if c := got.GetLinux().GetContainers()[0].GetCpu().GetUsageCoreNanoSeconds().GetValue(); c != 2e9 {
		t.Errorf("container %d", c)
	}
}

// TestSlowDisksWaitTogether: one answer waits once, however many layers take long, and has the figures that came in time.
func TestSlowDisksWaitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fixture(true)
		var all []stats.Container
		var asked atomic.Int32
		for i := range 40 {
			c := container()
			c.ID = strconv.Itoa(i)
			c.Disk = func(ctx context.Context) (stats.Disk, error) {
				asked.Add(1)
				if i%2 == 0 {
					<-ctx.Done() // it says what it knew before, or nothing
				}
				if i%4 == 0 {
					return stats.Disk{}, ctx.Err()
				}
				return stats.Disk{Bytes: uint64(i)}, nil
			}
			all = append(all, c)
		}
		start := time.Now()
		_, err := s.Containers(t.Context(), all[:4])
		few := time.Since(start)
		must(t, err)
		start = time.Now()
		got, err := s.Containers(t.Context(), all)
		took := time.Since(start)
		must(t, err)
		if few != 250*time.Millisecond || took != few {
			t.Errorf("40 containers take %s, 4 take %s", took, few)
		}
		if asked.Load() != 44 {
			t.Errorf("asked %d times", asked.Load())
		}
		for i, one := range got {
			layer := one.GetWritableLayer()
			if (layer == nil) != (i%4 == 0) || layer != nil && layer.GetUsedBytes().GetValue() != uint64(i) || one.GetCpu() == nil {
				t.Errorf("%d: %s", i, protojson.Format(one))
			}
		}
		pods := []stats.Pod{pod(), pod()}
		pods[0].Containers, pods[1].Containers = all[:20], all[20:]
		start = time.Now()
		_, err = s.Pods(t.Context(), pods)
		must(t, err)
		_, err = s.Metrics(t.Context(), pods)
		must(t, err)
		if took := time.Since(start); took != 2*few {
			t.Errorf("pods and metrics take %s", took)
		}
	})
}

// TestNobodyWaits: an answer ends when its caller is gone.
func TestNobodyWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fixture(true).Containers(ctx, []stats.Container{container()}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestAllInterfaces: the default interface has a place of its own and is in the list as well.
func TestAllInterfaces(t *testing.T) {
	raw := "Inter-|   Receive\n face |bytes\n" +
		"    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n" +
		"  net1: 5 6 7 8 0 0 0 0 9 10 11 12 0 0 0 0\n" +
		"  eth0: 100 1 2 3 0 0 0 0 200 4 5 6 0 0 0 0\n"
	got := stats.NetworkOf([]byte(raw), time.Now())
	if d := got.GetDefaultInterface(); d.GetName() != "eth0" || d.GetRxBytes().GetValue() != 100 || d.GetTxErrors().GetValue() != 5 {
		t.Errorf("default %v", d)
	}
	var names []string
	for _, i := range got.GetInterfaces() {
		names = append(names, i.GetName())
	}
	other := stats.NetworkOf([]byte("lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\nens1: 5 6 7 8 0 0 0 0 9 10 11 12 0 0 0 0\n"), time.Now())
	if other.GetDefaultInterface().GetName() != "ens1" {
		t.Errorf("default without eth0: %v", other)
	}
	if !slices.Equal(names, []string{"net1", "eth0"}) || got.GetInterfaces()[1].GetTxBytes().GetValue() != 200 {
		t.Errorf("interfaces %v", got.GetInterfaces())
	}
}

func TestRate(t *testing.T) {
	now := time.Unix(1000, 0)
	type step struct {
		after time.Duration
		usage uint64
		want  int64 // -1: none
	}
	for _, tc := range []struct {
		name  string
		born  time.Time
		steps []step
	}{
		{"two readings", time.Time{}, []step{{0, 5e9, -1}, {10 * time.Second, 10e9, 5e8}, {10 * time.Second, 10e9, 0}}},
		{"since birth", now.Add(-4 * time.Second), []step{{0, 1e9, 25e7}, {2 * time.Second, 3e9, 1e9}}},
		{"old at first sight", now.Add(-time.Hour), []step{{0, 1e9, -1}, {2 * time.Second, 2e9, 5e8}}},
		{"quick succession", now.Add(-4 * time.Second), []step{{0, 1e9, 25e7}, {time.Millisecond, 2e9, 25e7}, {time.Second, 2e9, 999000999}}},
		{"counter starts over", now.Add(-time.Hour), []step{{0, 9e9, -1}, {10 * time.Second, 1e9, -1}, {10 * time.Second, 2e9, 1e8}}},
		{"clock goes back", time.Time{}, []step{{0, 1e9, -1}, {-10 * time.Second, 2e9, -1}}},
		{"born tomorrow", now.Add(24 * time.Hour), []step{{0, 1e9, -1}, {2 * time.Second, 2e9, 5e8}}},
		{"an hour's use in two seconds", now.Add(-2 * time.Second), []step{{0, 3600e9, -1}, {2 * time.Second, 3601e9, 5e8}}},
		{"long unasked", time.Time{}, []step{{0, 1e9, -1}, {time.Hour, 2e9, -1}, {time.Second, 3e9, 1e9}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			next := stats.Rates()
			at := now
			for i, st := range tc.steps {
				at = at.Add(st.after)
				got, ok := next("x", st.usage, tc.born, at)
				if ok != (st.want >= 0) || ok && int64(got) != st.want {
					t.Errorf("step %d: %d %v, want %d", i, got, ok, st.want)
				}
			}
		})
	}
}

func TestRatesForgetObjectsGone(t *testing.T) {
	next, size := stats.RatesAndSize()
	at := time.Unix(1000, 0)
	for range 5000 {
		at = at.Add(5 * time.Second)
		next(at.String(), 1, time.Time{}, at)
	}
	if n := size(); n > 1000 {
		t.Errorf("%d readings kept", n)
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	s, before := fixture(true), runtime.NumGoroutine()
	for range 50 {
		single(t, s.Pods, pod())
		single(t, s.Metrics, pod())
	}
	await.Until(t, 5*time.Second, fmt.Sprintf("%d goroutines, as before", before), func() bool { return runtime.NumGoroutine() <= before })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// single measures one object.
func single[O, S any](t testing.TB, measure func(context.Context, []O) ([]S, error), what O) S {
	t.Helper()
	all, err := measure(t.Context(), []O{what})
	if err != nil || len(all) != 1 {
		t.Fatalf("%d answers, %v", len(all), err)
	}
	return all[0]
}
