// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// baseLabels are the labels of every metric, as cAdvisor in the kubelet has them: id is the cgroup's path, name the
// container's id. A pod's own metrics have no container and no image, so that sums over containers don't count twice.
func baseLabels() []string { return []string{"id", "name", "image", "container", "pod", "namespace"} }

// metric is one row of the table: what it is called and how it is got out of a sample.
type metric struct {
	name, help string
	kind       cri.MetricType
	labels     []string // beside the base labels
	values     func(s *sample, emit emit)
}

// emit gives one value; labels are those of the row, in its order.
type emit func(value uint64, labels ...string)

// sample is everything known of one container, or of one pod.
type sample struct {
	usage
	container *Container // nil for a pod
	nics      []nic
	disk      *Disk
	fs        *sys.Filesystem
	procs     *processes
	names     *deviceNames
	now       time.Time
}

// Descriptors says what Metrics gives.
func (s *Service) Descriptors() []*cri.MetricDescriptor {
	var out []*cri.MetricDescriptor
	for _, m := range s.table {
		out = append(out, &cri.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: append(baseLabels(), m.labels...)})
	}
	return out
}

// Metrics measures everything in the metric table for pods and the containers handed in with them. It costs several
// times what Pods costs, as it looks at each process. Values are whole numbers, seconds too: the CRI has no others. The
// error is that of ctx.
func (s *Service) Metrics(ctx context.Context, all []Pod) ([]*cri.PodSandboxMetrics, error) {
	q := askDisks(ctx, containersOf(all))
	defer q.close()
	r := s.reader()
	defer r.done()
	return each(ctx, all, func(p Pod) *cri.PodSandboxMetrics { return s.podMetrics(ctx, r, q, p) })
}

func (s *Service) podMetrics(ctx context.Context, r *reader, q *questions, p Pod) *cri.PodSandboxMetrics {
	d := s.podDirs(p)
	own := sample{usage: s.cgroupUsage(r, d, everything), nics: s.interfaces(r, p), names: &s.names, now: time.Now()}
	name, namespace := p.Metadata.GetName(), p.Metadata.GetNamespace()
	out := &cri.PodSandboxMetrics{
		PodSandboxId: p.ID,
		Metrics:      s.rows(&own, []string{d.path, p.ID, "", "", name, namespace}),
	}
	for _, c := range p.Containers {
		d := s.containerDirs(c)
		labels := []string{d.path, c.ID, c.Image, c.Metadata.GetName(), name, namespace}
		out.ContainerMetrics = append(out.ContainerMetrics, &cri.ContainerMetrics{
			ContainerId: c.ID,
			Metrics:     s.rows(s.sample(ctx, r, q, c), labels),
		})
	}
	return out
}

func (s *Service) sample(ctx context.Context, r *reader, q *questions, c Container) *sample {
	d := s.containerDirs(c)
	out := &sample{container: &c, names: &s.names, now: time.Now()}
	if c.Account == nil { // an account has too little for the table, and an empty cgroup says nothing
		out.usage, out.procs = s.cgroupUsage(r, d, everything), s.processes(ctx, r, d, c.PID)
	}
	if disk, ok := s.disk(q, c); ok {
		out.disk = &disk
		if fs, err := sys.FilesystemOf(disk.Mountpoint); err == nil {
			out.fs = &fs
		}
	}
	return out
}

// rows evaluates the table. Rows of equal labels share one slice, which is not written to any more.
func (s *Service) rows(sm *sample, base []string) []*cri.Metric {
	out := make([]*cri.Metric, 0, len(s.table))
	for _, m := range s.table {
		m.values(sm, func(value uint64, labels ...string) {
			all := base
			if len(labels) > 0 {
				all = slices.Concat(base, labels)
			}
			out = append(out, &cri.Metric{Name: m.name, MetricType: m.kind, LabelValues: all, Value: number(value)})
		})
	}
	return out
}

const (
	counter = cri.MetricType_COUNTER
	gauge   = cri.MetricType_GAUGE
)

// table is what kubelets had from cAdvisor: the names that upstream's critest expects of a runtime.
func table() []metric {
	return slices.Concat(cpuMetrics(), memoryMetrics(), networkMetrics(), diskMetrics(), processMetrics(), specMetrics(),
		hugepageMetrics(), pressureMetrics(), otherMetrics())
}

// The functions below turn a getter into a row's values; a nil pointer is a value that is not known.

func ofCPU(get func(*cpu) uint64) func(*sample, emit) {
	return func(s *sample, emit emit) {
		if s.cpu != nil {
			emit(get(s.cpu))
		}
	}
}

func ofMemory(get func(*memory) *uint64) func(*sample, emit) {
	return func(s *sample, emit emit) {
		if s.memory == nil {
			return
		}
		if v := get(s.memory); v != nil {
			emit(*v)
		}
	}
}

func ofNICs(get func(nic) uint64) func(*sample, emit) {
	return func(s *sample, emit emit) {
		for _, n := range s.nics {
			emit(get(n), n.name)
		}
	}
}

func ofProcesses(get func(*processes) uint64) func(*sample, emit) {
	return func(s *sample, emit emit) {
		if s.procs != nil {
			emit(get(s.procs))
		}
	}
}

func seconds(ns uint64) uint64 { return ns / uint64(time.Second) }
