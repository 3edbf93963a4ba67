// SPDX-License-Identifier: Apache-2.0

// Package stats reads what pods and containers use, from cgroup v1 and v2, /proc and the network namespaces, and says it
// as CRI stats and as the metrics that cAdvisor was known for.
//
// Invariants:
//   - Everything is read when asked and nothing in between: an idle node does no work here.
//   - What can't be read, because the container ended or the kernel lacks it, is left out of the answer; it is not an
//     error and never a made-up zero. container_memory_swap alone is 0 where the kernel does not count swap.
//   - The only memory is the last CPU reading of each object, for the rate, and that of objects gone is dropped.
//
// It knows no records and no images: the caller hands in identity, cgroup, process and a function for the disk use.
// Units are those of the CRI: nanoseconds, bytes. The kernel's (microseconds, USER_HZ) end in this package.
package stats

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// Options of New.
type Options struct {
	CgroupV2   bool   // one unified hierarchy; false for v1 and hybrid
	CgroupRoot string // "" means /sys/fs/cgroup
	Log        *slog.Logger
}

// Service reads statistics. Its methods may be called concurrently.
type Service struct {
	v2    bool
	root  string
	log   *slog.Logger
	table []metric
	rates rates
	names deviceNames
	bufs  sync.Pool // of *[]byte, for reading files into
}

// New makes the service. It reads nothing yet.
func New(o Options) *Service {
	if o.CgroupRoot == "" {
		o.CgroupRoot = sys.CgroupRoot
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{v2: o.CgroupV2, root: o.CgroupRoot, log: o.Log, table: table()}
	s.bufs.New = func() any { b := make([]byte, 16<<10); return &b }
	return s
}

// Container is what is to be measured, and who it is.
type Container struct {
	ID                  string
	Metadata            *cri.ContainerMetadata
	Labels, Annotations map[string]string
	Image               string // as the user named it
	Cgroup              string // OCI cgroupsPath
	PID                 int    // of its first process; 0 when it does not run
	StartedAt           time.Time
	Resources           *cri.LinuxContainerResources
	// Disk is the use of the writable layer; may be nil. It returns when its context ends, with what it knows by then.
	Disk func(context.Context) (Disk, error)
	// Account is what the container's runtime says that it uses, where its cgroup cannot tell because it is no process of
	// this machine; nil where the cgroup can. It returns when its context ends.
	Account func(context.Context) (Account, error)
}

// Account is a runtime's own account of a container.
type Account struct {
	CPU    uint64 // ns
	Memory uint64 // bytes
}

// Disk is the use of a writable layer.
type Disk struct {
	Mountpoint    string // a directory of the filesystem it is on
	Bytes, Inodes uint64
}

// Pod is a pod to be measured, with its containers.
type Pod struct {
	ID                  string
	Metadata            *cri.PodSandboxMetadata
	Labels, Annotations map[string]string
	CgroupParent        string // the pod's cgroup: a path or, with systemd, a slice
	PID                 int    // of a process in the pod's network namespace (pause); 0 when there is none
	NetNS               string // path of the pod's network namespace; "" for the node's own, which is not measured
	CreatedAt           time.Time
	Containers          []Container // those whose statistics are wanted
}

// Containers measures containers, in the order given. An ended one has its identity and its writable layer only. The
// error is that of ctx.
func (s *Service) Containers(ctx context.Context, all []Container) ([]*cri.ContainerStats, error) {
	q := askAll(ctx, all)
	defer q.close()
	r := s.reader()
	defer r.done()
	return each(ctx, all, func(c Container) *cri.ContainerStats { return s.container(r, q, c) })
}

// Pods measures pods and the containers handed in with them, in the order given. The error is that of ctx.
func (s *Service) Pods(ctx context.Context, all []Pod) ([]*cri.PodSandboxStats, error) {
	q := askAll(ctx, containersOf(all))
	defer q.close()
	r := s.reader()
	defer r.done()
	return each(ctx, all, func(p Pod) *cri.PodSandboxStats { return s.pod(r, q, p) })
}

func containersOf(pods []Pod) []Container {
	var all []Container
	for _, p := range pods {
		all = append(all, p.Containers...)
	}
	return all
}

// each measures one object after the other, until the request ends.
func each[O, S any](ctx context.Context, all []O, measure func(O) S) ([]S, error) {
	out := make([]S, 0, len(all))
	for _, o := range all {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		out = append(out, measure(o))
	}
	return out, nil
}

func (s *Service) container(r *reader, q *questions, c Container) *cri.ContainerStats {
	var u usage
	if c.Account != nil {
		u = s.accounted(q, c)
	} else {
		u = s.cgroupUsage(r, s.containerDirs(c), ofContainer)
	}
	now := time.Now()
	out := &cri.ContainerStats{
		Attributes: &cri.ContainerAttributes{Id: c.ID, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations},
		Cpu:        s.cpuUsage(c.ID, u.cpu, c.StartedAt, now),
		Memory:     u.memory.cri(now),
		Swap:       u.memory.swapUsage(now),
		Io:         u.io.cri(now),
	}
	if d, ok := s.disk(q, c); ok {
		out.WritableLayer = &cri.FilesystemUsage{
			Timestamp:  now.UnixNano(),
			FsId:       &cri.FilesystemIdentifier{Mountpoint: d.Mountpoint},
			UsedBytes:  number(d.Bytes),
			InodesUsed: number(d.Inodes),
		}
	}
	return out
}

func (s *Service) pod(r *reader, q *questions, p Pod) *cri.PodSandboxStats {
	u := s.cgroupUsage(r, s.podDirs(p), ofPod)
	nics := s.interfaces(r, p)
	now := time.Now()
	linux := &cri.LinuxPodSandboxStats{
		Cpu:     s.cpuUsage(p.ID, u.cpu, p.CreatedAt, now),
		Memory:  u.memory.cri(now),
		Network: networkUsage(nics, now),
		Io:      u.io.cri(now),
	}
	if u.tasks != nil {
		linux.Process = &cri.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: number(*u.tasks)}
	}
	for _, c := range p.Containers {
		linux.Containers = append(linux.Containers, s.container(r, q, c))
	}
	return &cri.PodSandboxStats{
		Attributes: &cri.PodSandboxAttributes{Id: p.ID, Metadata: p.Metadata, Labels: p.Labels, Annotations: p.Annotations},
		Linux:      linux,
	}
}

// reader is one caller's buffer for reading files.
type reader struct {
	buf  *[]byte
	pool *sync.Pool
}

func (s *Service) reader() *reader {
	return &reader{buf: s.bufs.Get().(*[]byte), pool: &s.bufs}
}

func (r *reader) done() { r.pool.Put(r.buf) }

// dirs are one cgroup's directories.
type dirs struct {
	path    string // below the hierarchies, as the kernel writes it in /proc/PID/cgroup
	unified string // on v2 all there is; on hybrid v1 the one that has pressure figures
	root    string // v1: the controllers' parent
}

func (d dirs) v1(controller string) string { return filepath.Join(d.root, controller, d.path) }
