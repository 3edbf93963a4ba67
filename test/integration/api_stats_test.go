// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	driver "github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inUse is the memory that the serving container holds, far above what a kernel
// keeps back for batches of its accounting.
const inUse = 16 << 20

// statsNode is a daemon with a pod that serves on a network of its own, one on
// the host's network and a container that has ended.
func statsNode(t *testing.T) (d *nodetest.Node, pod, web, quiet string) {
	t.Helper()
	d = node(t)
	config := d.PodConfig("measured")
	pod = d.Pod(t, config)
	c := nodetest.ContainerConfig("web", "serve", "8080", strconv.Itoa(inUse>>20))
	c.Labels = map[string]string{"part": "web"}
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 256 << 20}
	web = d.Run(t, pod, c, config)
	d.AwaitExit(t, d.Run(t, pod, nodetest.ContainerConfig("ended", "exit", "0"), config))
	quiet, quietConfig := quickPod(t, d, "quiet")
	d.Run(t, quiet, inHostNet("quiet", "sleep"), quietConfig)
	d.AwaitLog(t, "web", "serving")
	return d, pod, web, quiet
}

func containerStats(t *testing.T, d *nodetest.Node, id string) *cri.ContainerStats {
	t.Helper()
	r, err := d.Runtime.ContainerStats(t.Context(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Stats
}

func podStats(t *testing.T, d *nodetest.Node, id string) *cri.LinuxPodSandboxStats {
	t.Helper()
	r, err := d.Runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Stats.Linux
}

// work makes a container use its processor, its disk and its pod's network.
func work(t *testing.T, d *nodetest.Node, pod, web string) {
	t.Helper()
	if _, err := d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: web, Cmd: []string{tb, "bytes", "400000000"}, Timeout: int64(driver.Patience(time.Minute).Seconds())}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		exec(t, d, web, "write", fmt.Sprintf("/tmp/file-%d", i), strings.Repeat("w", 100000))
	}
	s, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(s.Status.Network.Ip, "8080"), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	go io.Copy(conn, io.LimitReader(zeros{}, 1<<20)) // comes back
	if _, err := io.CopyN(io.Discard, conn, 1<<20); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// grew checks a figure against an earlier reading.
func grew(t *testing.T, what string, before, after *cri.UInt64Value, least uint64) {
	t.Helper()
	if after.GetValue() < before.GetValue()+least {
		t.Errorf("%s: %d, then %d; want %d more", what, before.GetValue(), after.GetValue(), least)
	}
}

func TestContainerStats(t *testing.T) {
	d, pod, web, _ := statsNode(t)
	before := containerStats(t, d, web)
	time.Sleep(1100 * time.Millisecond) // rates are over a second at least
	work(t, d, pod, web)
	busy := containerStats(t, d, web).Cpu
	grew(t, "CPU time", before.Cpu.UsageCoreNanoSeconds, busy.UsageCoreNanoSeconds, uint64(10*time.Millisecond))
	if rate := busy.UsageNanoCores.GetValue(); rate == 0 || rate > 64e9 {
		t.Errorf("CPU rate %d", rate)
	}
	nodetest.Eventually(t, 20*time.Second, "the writable layer is measured anew", func() bool {
		l := containerStats(t, d, web).WritableLayer
		return l.GetUsedBytes().GetValue() >= before.WritableLayer.GetUsedBytes().GetValue()+20*100000
	})
	after := containerStats(t, d, web)
	if m := after.Memory; m.WorkingSetBytes.GetValue() < inUse || m.WorkingSetBytes.GetValue() > 256<<20 || m.RssBytes.GetValue() < inUse ||
		m.AvailableBytes.GetValue() == 0 || m.AvailableBytes.GetValue()+m.WorkingSetBytes.GetValue() > 256<<20 || m.PageFaults.GetValue() == 0 {
		t.Errorf("memory %v", m)
	}
	if exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") && after.Swap == nil {
		t.Error("swap is accounted on this machine and not in the stats")
	}
	grew(t, "inodes of the writable layer", before.WritableLayer.InodesUsed, after.WritableLayer.InodesUsed, 20)
	if l := after.WritableLayer; l.FsId.GetMountpoint() == "" || l.Timestamp == 0 {
		t.Errorf("writable layer %v", l)
	}
	if a := after.Attributes; a.Id != web || a.Metadata.Name != "web" || a.Labels["part"] != "web" {
		t.Errorf("attributes %v", a)
	}
	if exists("/proc/pressure/cpu") && (exists("/sys/fs/cgroup/cgroup.controllers") || exists("/sys/fs/cgroup/unified")) && after.Cpu.Psi == nil {
		t.Log("pressure is known for the machine and not for the container")
	}
}

func TestPodStats(t *testing.T) {
	d, pod, web, quiet := statsNode(t)
	before := podStats(t, d, pod)
	time.Sleep(1100 * time.Millisecond)
	work(t, d, pod, web)
	after := podStats(t, d, pod)
	grew(t, "CPU time", before.Cpu.UsageCoreNanoSeconds, after.Cpu.UsageCoreNanoSeconds, uint64(10*time.Millisecond))
	if after.Cpu.UsageNanoCores.GetValue() == 0 || after.Memory.WorkingSetBytes.GetValue() < inUse {
		t.Errorf("CPU %v, memory %v", after.Cpu, after.Memory)
	}
	if n := after.Process.GetProcessCount().GetValue(); n < 2 || n > 100 { // pause and the server, the latter with its threads
		t.Errorf("%d processes", n)
	}
	n := after.Network.GetDefaultInterface()
	if n.GetName() != "eth0" {
		t.Fatalf("network %v", after.Network)
	}
	names := map[string]int{} // some kernels give each namespace a tunnel of its own
	for _, nic := range after.Network.GetInterfaces() {
		names[nic.GetName()]++
	}
	if names["eth0"] != 1 || names["lo"] != 0 {
		t.Errorf("interfaces %v", names)
	}
	grew(t, "bytes received", before.Network.GetDefaultInterface().RxBytes, n.RxBytes, 1<<20)
	grew(t, "bytes sent", before.Network.GetDefaultInterface().TxBytes, n.TxBytes, 1<<20)
	if len(after.Containers) != 1 || after.Containers[0].Attributes.Id != web || after.Containers[0].Cpu.UsageCoreNanoSeconds.GetValue() == 0 {
		t.Errorf("containers %v", after.Containers)
	}
	if s := podStats(t, d, quiet); s.Network != nil || s.Memory.WorkingSetBytes.GetValue() == 0 {
		t.Errorf("pod on the host's network: %v", s)
	}
}

func TestStatsFilters(t *testing.T) {
	d, pod, web, quiet := statsNode(t)
	for name, c := range map[string]struct {
		filter *cri.ContainerStatsFilter
		want   int
	}{
		"all that run":  {nil, 2},
		"id":            {&cri.ContainerStatsFilter{Id: web}, 1},
		"start of id":   {&cri.ContainerStatsFilter{Id: web[:13]}, 1},
		"pod":           {&cri.ContainerStatsFilter{PodSandboxId: pod}, 1},
		"label":         {&cri.ContainerStatsFilter{LabelSelector: map[string]string{"part": "web"}}, 1},
		"other label":   {&cri.ContainerStatsFilter{LabelSelector: map[string]string{"part": "db"}}, 0},
		"id, other pod": {&cri.ContainerStatsFilter{Id: web, PodSandboxId: quiet}, 0},
	} {
		r, err := d.Runtime.ListContainerStats(t.Context(), &cri.ListContainerStatsRequest{Filter: c.filter})
		if err != nil || len(r.Stats) != c.want {
			t.Errorf("%s: %d containers, want %d; %v", name, len(r.GetStats()), c.want, err)
		}
		for _, s := range r.GetStats() {
			if s.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 || s.Memory.GetWorkingSetBytes().GetValue() == 0 {
				t.Errorf("%s: %v", name, s)
			}
		}
	}
	for name, c := range map[string]struct {
		filter *cri.PodSandboxStatsFilter
		want   int
	}{
		"all":   {nil, 2},
		"id":    {&cri.PodSandboxStatsFilter{Id: pod}, 1},
		"label": {&cri.PodSandboxStatsFilter{LabelSelector: map[string]string{"test": "quiet"}}, 1},
		"none":  {&cri.PodSandboxStatsFilter{Id: pod, LabelSelector: map[string]string{"test": "quiet"}}, 0},
	} {
		r, err := d.Runtime.ListPodSandboxStats(t.Context(), &cri.ListPodSandboxStatsRequest{Filter: c.filter})
		if err != nil || len(r.Stats) != c.want {
			t.Errorf("pods, %s: %d, want %d; %v", name, len(r.GetStats()), c.want, err)
		}
	}
}

// Each metric that is listed is described, with as many labels as it has
// values; a running container has a value of nearly each name.
func TestMetrics(t *testing.T) {
	d, pod, web, _ := statsNode(t)
	described, err := d.Runtime.ListMetricDescriptors(t.Context(), &cri.ListMetricDescriptorsRequest{})
	if err != nil || len(described.Descriptors) != 56 {
		t.Fatalf("%d descriptors, want 56; %v", len(described.GetDescriptors()), err)
	}
	keys := map[string][]string{}
	for _, m := range described.Descriptors {
		keys[m.Name] = m.LabelKeys
	}
	r, err := d.Runtime.ListPodSandboxMetrics(t.Context(), &cri.ListPodSandboxMetricsRequest{})
	if err != nil || len(r.PodMetrics) != 2 {
		t.Fatalf("%d pods, want 2; %v", len(r.GetPodMetrics()), err)
	}
	values := map[string]uint64{} // of the serving pod and its container
	seen := map[string]bool{}
	check := func(metrics []*cri.Metric, kind string, labels map[string]string, keep bool) {
		for _, m := range metrics {
			k, ok := keys[m.Name]
			if !ok || len(k) != len(m.LabelValues) || m.Value == nil {
				t.Errorf("%s: described %t, keys %v, values %v", m.Name, ok, k, m.LabelValues)
				continue
			}
			row := m.Name + fmt.Sprint(m.LabelValues)
			if seen[row] {
				t.Errorf("given twice: %s", row)
			}
			seen[row] = true
			for key, want := range labels {
				if got := m.LabelValues[slices.Index(k, key)]; got != want {
					t.Errorf("%s of a %s: label %s is %q, want %q", m.Name, kind, key, got, want)
				}
			}
			if keep {
				values[m.Name] += m.Value.Value
			}
		}
	}
	for _, p := range r.PodMetrics {
		serving := p.PodSandboxId == pod
		name := map[bool]string{true: "measured", false: "quiet"}[serving]
		check(p.Metrics, "pod", map[string]string{"pod": name, "namespace": "default", "container": "", "name": p.PodSandboxId}, serving)
		for _, c := range p.ContainerMetrics {
			labels := map[string]string{"pod": name, "namespace": "default", "name": c.ContainerId, "image": nodetest.TestImage}
			if serving {
				labels["container"] = "web"
				if c.ContainerId != web {
					t.Errorf("a container that does not run is measured: %s", c.ContainerId)
				}
			}
			check(c.Metrics, "container", labels, serving)
		}
	}
	var missing []string
	for name := range keys {
		if _, ok := values[name]; !ok {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	t.Logf("no value on this machine: %v", missing)
	if len(missing) > 12 {
		t.Errorf("%d of 56 metrics have no value", len(missing))
	}
	for _, name := range []string{
		"container_memory_working_set_bytes", "container_memory_usage_bytes", "container_processes", "container_threads", "container_file_descriptors",
		"container_network_receive_bytes_total", "container_network_transmit_packets_total", "container_fs_limit_bytes", "container_start_time_seconds",
		"container_spec_memory_limit_bytes", "container_last_seen",
	} {
		if values[name] == 0 {
			t.Errorf("%s is zero", name)
		}
	}
	if got := values["container_spec_memory_limit_bytes"]; got != 256<<20 {
		t.Errorf("memory limit %d", got)
	}
}

// streamed reads a Stream call to its end: the items of all its messages.
func streamed[M any, T proto.Message](t *testing.T, s grpc.ServerStreamingClient[M], err error, items func(*M) []T) []T {
	t.Helper()
	var all []T
	for err == nil {
		var m *M
		if m, err = s.Recv(); err == nil {
			all = append(all, items(m)...)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	return all
}

// same checks that two lists have the same objects in the same order, each once.
func same[T any](t *testing.T, what string, want int, listed, streamed []T, id func(T) string) {
	t.Helper()
	ids := func(all []T) (out []string) {
		for _, one := range all {
			out = append(out, id(one))
		}
		return out
	}
	if a, b := ids(listed), ids(streamed); len(a) != want || !slices.Equal(a, b) {
		t.Errorf("%s: listed %v, streamed %v, want %d", what, a, b, want)
	}
}

// The six Stream calls give what the List calls give.
func TestStreamCalls(t *testing.T) {
	d, _, _, _ := statsNode(t)
	r, i, ctx := d.Runtime, d.Images, t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pods, err := r.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	must(err)
	s1, err := r.StreamPodSandboxes(ctx, &cri.StreamPodSandboxesRequest{})
	same(t, "pods", 2, pods.Items, streamed(t, s1, err, (*cri.StreamPodSandboxesResponse).GetPodSandboxes), (*cri.PodSandbox).String)
	containers, err := r.ListContainers(ctx, &cri.ListContainersRequest{})
	must(err)
	s2, err := r.StreamContainers(ctx, &cri.StreamContainersRequest{})
	same(t, "containers", 3, containers.Containers, streamed(t, s2, err, (*cri.StreamContainersResponse).GetContainers), (*cri.Container).String)
	stats, err := r.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	must(err)
	s3, err := r.StreamContainerStats(ctx, &cri.StreamContainerStatsRequest{})
	same(t, "container stats", 2, stats.Stats, streamed(t, s3, err, (*cri.StreamContainerStatsResponse).GetContainerStats),
		func(s *cri.ContainerStats) string { return s.Attributes.String() })
	pstats, err := r.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
	must(err)
	s4, err := r.StreamPodSandboxStats(ctx, &cri.StreamPodSandboxStatsRequest{})
	same(t, "pod stats", 2, pstats.Stats, streamed(t, s4, err, (*cri.StreamPodSandboxStatsResponse).GetPodSandboxStats),
		func(s *cri.PodSandboxStats) string { return s.Attributes.String() })
	metrics, err := r.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{})
	must(err)
	s5, err := r.StreamPodSandboxMetrics(ctx, &cri.StreamPodSandboxMetricsRequest{})
	same(t, "metrics", 2, metrics.PodMetrics, streamed(t, s5, err, (*cri.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics), (*cri.PodSandboxMetrics).GetPodSandboxId)
	images, err := i.ListImages(ctx, &cri.ListImagesRequest{})
	must(err)
	s6, err := i.StreamImages(ctx, &cri.StreamImagesRequest{})
	same(t, "images", 1, images.Images, streamed(t, s6, err, (*cri.StreamImagesResponse).GetImages), (*cri.Image).String)
	filtered, err := r.StreamContainers(ctx, &cri.StreamContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: map[string]string{"part": "web"}}})
	if got := streamed(t, filtered, err, (*cri.StreamContainersResponse).GetContainers); len(got) != 1 || got[0].Metadata.Name != "web" {
		t.Errorf("streamed with a filter: %v", got)
	}
}
