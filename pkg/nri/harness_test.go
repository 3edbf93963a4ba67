// SPDX-License-Identifier: Apache-2.0

package nri_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

const patience = 10 * time.Second

// runtime is what stands around the service: objects, and the updates that plugins ask for on their own.
type runtime struct {
	*nri.Service
	socket string

	mu         sync.Mutex
	pods       []nri.Pod
	containers []nri.Container
	onUpdate   func([]nri.Update) ([]nri.Update, error)
	updates    chan []nri.Update
}

func (r *runtime) state() ([]nri.Pod, []nri.Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.pods), slices.Clone(r.containers)
}

func (r *runtime) addContainer(c nri.Container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers = append(r.containers, c)
}

func (r *runtime) update(_ context.Context, updates []nri.Update) ([]nri.Update, error) {
	r.updates <- updates
	if r.onUpdate == nil {
		return nil, nil
	}
	return r.onUpdate(updates)
}

// testHost is a machine without CAP_SYS_RESOURCE and with cgroup v2.
func testHost() nri.Host {
	facts := sys.Facts{
		CgroupV2: true, SwapAccounting: true, OOMScoreAdjMin: -100, HugepageSizes: []string{"2MB"},
		RlimitMax: map[string]uint64{"RLIMIT_NOFILE": 1 << 20},
	}
	return nri.Host{
		Facts: facts,
		Resources: func(spec *specs.Spec, r *cri.LinuxContainerResources) error {
			return limits.Update(spec, r, facts)
		},
		CDI: func(spec *specs.Spec, names []string) error {
			for _, name := range names {
				spec.Process.Env = append(spec.Process.Env, "CDI="+name)
			}
			return nil
		},
		Propagation: func(path string) (mount.Propagation, error) {
			return mount.Propagation{Mount: path, Shared: path == "/shared"}, nil
		},
	}
}

// start brings a service up on a socket of its own.
func start(t testing.TB, change func(*nri.Options)) *runtime {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri-nri-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &runtime{socket: filepath.Join(dir, "nri.sock"), updates: make(chan []nri.Update, 16)}
	o := nri.Options{
		Socket: r.socket, Version: "v1", State: r.state, Update: r.update, Host: testHost(),
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1})),
	}
	if change != nil {
		change(&o)
	}
	if r.Service, err = nri.New(o); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return r
}

// event is one request as a plugin saw it.
type event struct {
	name      string
	pod       *api.PodSandbox
	container *api.Container
}

// plugin handles every request; hooks may be nil.
type plugin struct {
	mu     sync.Mutex
	events []event
	pods   []*api.PodSandbox // of the synchronisation
	ctrs   []*api.Container
	index  string // "10" by default
	synced chan struct{}
	closed chan struct{}

	onSync   func() []*api.ContainerUpdate
	on       func(context.Context, event) error
	onCreate func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate)
	onUpdate func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
	onStop   func(*api.Container) []*api.ContainerUpdate
}

// connect brings a plugin to the runtime and waits for its synchronisation.
func (r *runtime) connect(t testing.TB, p *plugin, options ...stub.Option) stub.Stub {
	t.Helper()
	s := r.dial(t, p, options...)
	await(t, p.synced, "synchronisation")
	return s
}

func (r *runtime) dial(t testing.TB, p *plugin, options ...stub.Option) stub.Stub {
	t.Helper()
	p.synced, p.closed = make(chan struct{}), make(chan struct{})
	var once sync.Once
	if p.index == "" {
		p.index = "10"
	}
	options = append([]stub.Option{
		stub.WithPluginName("test"), stub.WithPluginIdx(p.index), stub.WithSocketPath(r.socket),
		stub.WithOnClose(func() { once.Do(func() { close(p.closed) }) }),
	}, options...)
	s, err := stub.New(p, options...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func await(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("no %s in %s", what, patience)
	}
}

func (p *plugin) see(ctx context.Context, name string, pod *api.PodSandbox, c *api.Container) error {
	e := event{name, pod, c}
	p.mu.Lock()
	p.events = append(p.events, e)
	p.mu.Unlock()
	if p.on != nil {
		return p.on(ctx, e)
	}
	return nil
}

func (p *plugin) seen() []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

func (p *plugin) names() []string {
	var out []string
	for _, e := range p.seen() {
		out = append(out, e.name)
	}
	return out
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, ctrs []*api.Container) (u []*api.ContainerUpdate, _ error) {
	p.mu.Lock()
	p.pods, p.ctrs = pods, ctrs
	p.mu.Unlock()
	close(p.synced)
	if p.onSync != nil {
		u = p.onSync()
	}
	return u, nil
}

func (p *plugin) RunPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.see(ctx, "RunPodSandbox", pod, nil)
}

func (p *plugin) UpdatePodSandbox(ctx context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	return p.see(ctx, "UpdatePodSandbox", pod, nil)
}

func (p *plugin) PostUpdatePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.see(ctx, "PostUpdatePodSandbox", pod, nil)
}

func (p *plugin) StopPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.see(ctx, "StopPodSandbox", pod, nil)
}

func (p *plugin) RemovePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.see(ctx, "RemovePodSandbox", pod, nil)
}

func (p *plugin) CreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) (a *api.ContainerAdjustment, u []*api.ContainerUpdate, err error) {
	err = p.see(ctx, "CreateContainer", pod, c)
	if err == nil && p.onCreate != nil {
		a, u = p.onCreate(c)
	}
	return a, u, err
}

func (p *plugin) PostCreateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.see(ctx, "PostCreateContainer", pod, c)
}

func (p *plugin) StartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.see(ctx, "StartContainer", pod, c)
}

func (p *plugin) PostStartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.see(ctx, "PostStartContainer", pod, c)
}

func (p *plugin) UpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) (u []*api.ContainerUpdate, err error) {
	err = p.see(ctx, "UpdateContainer", pod, c)
	if err == nil && p.onUpdate != nil {
		u = p.onUpdate(c, r)
	}
	return u, err
}

func (p *plugin) PostUpdateContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.see(ctx, "PostUpdateContainer", pod, c)
}

func (p *plugin) StopContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) (u []*api.ContainerUpdate, err error) {
	err = p.see(ctx, "StopContainer", pod, c)
	if err == nil && p.onStop != nil {
		u = p.onStop(c)
	}
	return u, err
}

func (p *plugin) RemoveContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.see(ctx, "RemoveContainer", pod, c)
}

func testPod() nri.Pod {
	return nri.Pod{
		ID: "pod-1", Name: "web", UID: "u-1", Namespace: "default", RuntimeHandler: "runc",
		Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": "a"},
		CgroupParent: "/kubepods/pod1", CgroupsPath: "/kubepods/pod1/pause", NetNS: "/var/run/netns/cri-pod-1",
		PID: 42, IPs: []string{"10.0.0.7"}, Resources: &cri.LinuxContainerResources{CpuShares: 512},
	}
}

func testContainer() nri.Container {
	return nri.Container{
		ID: "ctr-1", PodID: "pod-1", Name: "app", State: cri.ContainerState_CONTAINER_CREATED,
		Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"n": "2"},
		CreatedAt: time.Unix(100, 5), ImageName: "example.com/app:1", ImageID: "sha256:c",
		Spec:    func() (*specs.Spec, error) { return testSpec(), nil },
		Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, CDIDevices: []string{"v.com/d=1"},
	}
}

func testSpec() *specs.Spec {
	return &specs.Spec{
		Version:     specs.Version,
		Annotations: map[string]string{"keep": "1", "drop": "2"},
		Process: &specs.Process{
			Args: []string{"app"}, Env: []string{"PATH=/bin", "DROP=1", "CHANGE=old", "LAST=1"},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_CORE", Soft: 1, Hard: 1}},
			User:    specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/data/drop", Type: "bind", Source: "/a", Options: []string{"rbind"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/kubepods/pod1/ctr-1",
			Sysctl:      map[string]string{"net.keep": "1", "net.drop": "1"},
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/a"}, {Type: specs.UTSNamespace}},
			Devices:     []specs.LinuxDevice{{Path: "/dev/drop", Type: "c", Major: 1, Minor: 2}, {Path: "/dev/keep", Type: "c", Major: 1, Minor: 3}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Memory:  &specs.LinuxMemory{Limit: new(int64(1 << 20)), Swap: new(int64(1 << 20))},
			},
		},
	}
}
