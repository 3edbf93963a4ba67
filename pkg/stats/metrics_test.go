// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/stats"
)

// expected are the names that upstream's critest wants described and, but for those of devices, given.
const expected = `
container_blkio_device_usage_total container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total
container_cpu_cfs_throttled_seconds_total container_cpu_system_seconds_total container_cpu_usage_seconds_total
container_cpu_user_seconds_total container_file_descriptors container_fs_inodes_free container_fs_inodes_total
container_fs_limit_bytes container_fs_reads_bytes_total container_fs_reads_total container_fs_usage_bytes
container_fs_writes_bytes_total container_fs_writes_total container_hugetlb_max_usage_bytes container_hugetlb_usage_bytes
container_last_seen container_memory_cache container_memory_failcnt container_memory_failures_total
container_memory_kernel_usage container_memory_mapped_file container_memory_max_usage_bytes container_memory_rss
container_memory_swap container_memory_usage_bytes container_memory_working_set_bytes container_network_receive_bytes_total
container_network_receive_errors_total container_network_receive_packets_dropped_total
container_network_receive_packets_total container_network_transmit_bytes_total container_network_transmit_errors_total
container_network_transmit_packets_dropped_total container_network_transmit_packets_total container_oom_events_total
container_pressure_cpu_stalled_seconds_total container_pressure_cpu_waiting_seconds_total
container_pressure_io_stalled_seconds_total container_pressure_io_waiting_seconds_total
container_pressure_memory_stalled_seconds_total container_pressure_memory_waiting_seconds_total container_processes
container_sockets container_spec_cpu_period container_spec_cpu_quota container_spec_cpu_shares
container_spec_memory_limit_bytes container_spec_memory_reservation_limit_bytes container_spec_memory_swap_limit_bytes
container_start_time_seconds container_threads container_threads_max container_ulimits_soft`

func TestDescriptors(t *testing.T) {
	var names []string
	for _, d := range fixture(true).Descriptors() {
		names = append(names, d.GetName())
		if d.GetHelp() == "" || len(d.GetLabelKeys()) < 6 {
			t.Errorf("%v", d)
		}
	}
	slices.Sort(names)
	if got, want := strings.Join(names, " "), strings.Join(strings.Fields(expected), " "); got != want {
		t.Errorf("names\n got %s\nwant %s", got, want)
	}
}

// series writes the metrics as Prometheus would: name{labels} value.
func series(t *testing.T, s *stats.Service, metrics []*cri.Metric) map[string]uint64 {
	t.Helper()
	keys := map[string][]string{}
	for _, d := range s.Descriptors() {
		keys[d.GetName()] = d.GetLabelKeys()
	}
	out := map[string]uint64{}
	for _, m := range metrics {
		k := keys[m.GetName()]
		if len(k) != len(m.GetLabelValues()) {
			t.Fatalf("%s: labels %v for keys %v", m.GetName(), m.GetLabelValues(), k)
		}
		var extra []string
		for i := 6; i < len(k); i++ {
			extra = append(extra, fmt.Sprintf("%s=%s", k[i], m.GetLabelValues()[i]))
		}
		name := m.GetName() + "{" + strings.Join(extra, ",") + "}"
		if _, twice := out[name]; twice {
			t.Errorf("%s given twice", name)
		}
		out[name] = m.GetValue().GetValue()
	}
	return out
}

func TestMetrics(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		s := fixture(v2)
		all := single(t, s.Metrics, pod())
		if all.GetPodSandboxId() != "p1" || len(all.GetContainerMetrics()) != 1 || all.GetContainerMetrics()[0].GetContainerId() != "c1" {
			t.Fatalf("%v", all)
		}
		metrics := all.GetContainerMetrics()[0].GetMetrics()
		if got := strings.Join(metrics[0].GetLabelValues()[:6], " "); got != "/kubepods/pod1/c1 c1 nginx:1 web web-0 shop" {
			t.Errorf("labels %s", got)
		}
		got := series(t, s, metrics)
		want := map[string]uint64{
			"container_cpu_usage_seconds_total{cpu=total}":                                           7,
			"container_cpu_user_seconds_total{}":                                                     5,
			"container_cpu_system_seconds_total{}":                                                   2,
			"container_cpu_cfs_periods_total{}":                                                      412,
			"container_cpu_cfs_throttled_periods_total{}":                                            37,
			"container_cpu_cfs_throttled_seconds_total{}":                                            1,
			"container_memory_cache{}":                                                               18 << 20,
			"container_memory_rss{}":                                                                 20 << 20,
			"container_memory_swap{}":                                                                1 << 20,
			"container_memory_kernel_usage{}":                                                        2 << 20,
			"container_memory_mapped_file{}":                                                         6 << 20,
			"container_memory_failcnt{}":                                                             5,
			"container_memory_usage_bytes{}":                                                         40 << 20,
			"container_memory_max_usage_bytes{}":                                                     48 << 20,
			"container_memory_working_set_bytes{}":                                                   28 << 20,
			"container_memory_failures_total{failure_type=pgfault,scope=hierarchy}":                  9041,
			"container_memory_failures_total{failure_type=pgmajfault,scope=hierarchy}":               17,
			"container_oom_events_total{}":                                                           1,
			"container_threads{}":                                                                    3,
			"container_threads_max{}":                                                                0,
			"container_hugetlb_usage_bytes{pagesize=2MB}":                                            4 << 20,
			"container_spec_cpu_period{}":                                                            100000,
			"container_spec_cpu_quota{}":                                                             0,
			"container_spec_cpu_shares{}":                                                            2,
			"container_spec_memory_limit_bytes{}":                                                    64 << 20,
			"container_spec_memory_swap_limit_bytes{}":                                               68 << 20,
			"container_spec_memory_reservation_limit_bytes{}":                                        0,
			"container_fs_usage_bytes{device=" + layerDevice(got) + "}":                              12345,
			"container_fs_reads_bytes_total{device=4094:7}":                                          8192000,
			"container_fs_reads_total{device=4094:7}":                                                210,
			"container_fs_writes_bytes_total{device=4094:7}":                                         409600,
			"container_fs_writes_total{device=4094:7}":                                               33,
			"container_blkio_device_usage_total{device=4094:7,major=4094,minor=7,operation=Read}":    8192000,
			"container_blkio_device_usage_total{device=4094:7,major=4094,minor=7,operation=Discard}": 4096,
			"container_blkio_device_usage_total{device=4094:7,major=4094,minor=7,operation=Total}":   8605696,
			"container_pressure_cpu_waiting_seconds_total{}":                                         4,
			"container_pressure_cpu_stalled_seconds_total{}":                                         2,
			"container_pressure_memory_waiting_seconds_total{}":                                      0,
			"container_pressure_io_waiting_seconds_total{}":                                          9,
			"container_pressure_io_stalled_seconds_total{}":                                          8,
		}
		want["container_memory_failures_total{failure_type=pgfault,scope=container}"] = map[bool]uint64{true: 9041, false: 4000}[v2]
		want["container_hugetlb_max_usage_bytes{pagesize=2MB}"] = map[bool]uint64{true: 4 << 20, false: 6 << 20}[v2]
		for name, value := range want {
			if v, ok := got[name]; !ok || v != value {
				t.Errorf("v2 %v: %s: %d (%v), want %d", v2, name, v, ok, value)
			}
		}
	}
}

// layerDevice is whatever the machine's root filesystem is on.
func layerDevice(got map[string]uint64) string {
	for name := range got {
		if rest, ok := strings.CutPrefix(name, "container_fs_limit_bytes{device="); ok {
			return strings.TrimSuffix(rest, "}")
		}
	}
	return "none"
}

func TestPodsOwnMetricsAreNoContainers(t *testing.T) {
	for _, m := range single(t, fixture(true).Metrics, pod()).GetMetrics() {
		if l := m.GetLabelValues(); l[2] != "" || l[3] != "" || l[4] != "web-0" || l[5] != "shop" {
			t.Errorf("%s %v", m.GetName(), l)
		}
		if strings.HasPrefix(m.GetName(), "container_spec") || strings.HasPrefix(m.GetName(), "container_fs") {
			t.Errorf("%s of a pod", m.GetName())
		}
	}
}

// A file of huge pages that cannot be read is left out.
func TestUnreadableHugepages(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "kubepods/pod1/c1")
	must(t, os.MkdirAll(filepath.Join(dir, "hugetlb.2MB.current"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "hugetlb.1GB.current"), []byte("0\n"), 0o600))
	s := stats.New(stats.Options{CgroupV2: true, CgroupRoot: root})
	got := series(t, s, single(t, s.Metrics, pod()).GetContainerMetrics()[0].GetMetrics())
	if _, read := got["container_hugetlb_usage_bytes{pagesize=1GB}"]; !read {
		t.Error("1GB is left out")
	}
	if v, made := got["container_hugetlb_usage_bytes{pagesize=2MB}"]; made {
		t.Errorf("2MB is %d", v)
	}
}
