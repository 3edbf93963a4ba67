// SPDX-License-Identifier: Apache-2.0

package nri_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var rewrite = flag.Bool("update", false, "rewrite golden files")

// everything is an adjustment of all that can be adjusted.
func everything() *api.ContainerAdjustment {
	a := &api.ContainerAdjustment{}
	a.AddAnnotation("new", "1")
	a.RemoveAnnotation("drop")
	a.AddEnv("NEW", "1")
	a.AddEnv("CHANGE", "new=x")
	a.RemoveEnv("DROP")
	a.SetArgs([]string{"wrapper", "app"})
	a.AddRlimit("RLIMIT_NOFILE", 1<<30, 1<<29)
	a.AddHooks(&api.Hooks{
		CreateRuntime: []*api.Hook{{Path: "/bin/hook", Args: []string{"hook", "a"}, Env: []string{"A=1"}, Timeout: api.Int(3)}},
		Poststop:      []*api.Hook{{Path: "/bin/bye"}},
	})
	a.AddMount(&api.Mount{Destination: "/data/deep/er", Type: "bind", Source: "/shared", Options: []string{"rbind", "rshared", "relabel"}})
	a.AddMount(&api.Mount{Destination: "/data", Type: "bind", Source: "/b", Options: []string{"rbind", "ro"}})
	a.RemoveMount("/data/drop")
	a.AddDevice(&api.LinuxDevice{Path: "/dev/new", Type: "b", Major: 8, Minor: 1, FileMode: api.FileMode(os.FileMode(0o640)), Uid: api.UInt32(uint32(5))})
	a.RemoveDevice("/dev/drop")
	a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/net=eth1"})
	a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/b"})
	a.RemoveNamespace(&api.LinuxNamespace{Type: "uts"})
	a.SetLinuxSysctl("net.new", "2")
	a.SetLinuxSysctl(api.MarkForRemoval("net.drop"), "")
	a.AddLinuxNetDevice("eth7", &api.LinuxNetDevice{Name: "eth0"})
	a.SetLinuxOomScoreAdj(new(-500))
	a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_BE, Priority: 6})
	a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH, Nice: 5})
	a.SetLinuxMemoryPolicy(api.MpolMode_MPOL_BIND, "0", api.MpolFlag_MPOL_F_STATIC_NODES)
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{
		DefaultAction: "SCMP_ACT_ERRNO", DefaultErrno: api.UInt32(uint32(38)), Architectures: []string{"SCMP_ARCH_X86_64"},
		Flags: []string{"SECCOMP_FILTER_FLAG_LOG"}, Syscalls: []*api.LinuxSyscall{{Names: []string{"read"}, Action: "SCMP_ACT_ALLOW"}},
	})
	a.SetLinuxCgroupsPath("/elsewhere/ctr-1")
	adjustResources(a)
	return a
}

func adjustResources(a *api.ContainerAdjustment) {
	a.SetLinuxMemoryLimit(2 << 20)
	a.SetLinuxMemoryReservation(1 << 19)
	a.SetLinuxMemorySwappiness(10)
	a.SetLinuxCPUShares(200)
	a.SetLinuxCPUQuota(5000)
	a.SetLinuxCPUPeriod(10000)
	a.SetLinuxCPUSetCPUs("0-1")
	a.SetLinuxCPUSetMems("0")
	a.SetLinuxCPURealtimePeriod(1000)
	a.SetLinuxPidLimits(99)
	a.AddLinuxHugepageLimit("2MB", 4<<20)
	a.AddLinuxUnified("memory.high", "1000000")
	a.SetLinuxRDTClass("gold")
}

func TestAdjustmentGolden(t *testing.T) {
	r := start(t, nil)
	p := &plugin{onCreate: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) { return everything(), nil }}
	r.connect(t, p)
	c := testContainer()
	labels, spec := c.Labels, testSpec()
	before := testSpec()
	if _, err := r.CreateContainer(t.Context(), testPod(), c, spec, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(struct{ Before, After *specs.Spec }{before, spec}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/everything.json"
	if *rewrite {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got)+"\n" {
		t.Errorf("the adjusted spec differs from %s; -update rewrites it:\n%s", golden, got)
	}
	if len(labels) != 1 || len(c.Annotations) != 1 {
		t.Error("the caller's maps were changed")
	}
}

// TestUntouchedSpec: a plugin that asks for nothing changes nothing, not even an empty value into another.
func TestUntouchedSpec(t *testing.T) {
	r := start(t, nil)
	for _, answer := range []*api.ContainerAdjustment{nil, {}, {Linux: &api.LinuxContainerAdjustment{Resources: &api.LinuxResources{}}}} {
		p := &plugin{onCreate: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) { return answer, nil }}
		s := r.connect(t, p)
		for _, spec := range []*specs.Spec{testSpec(), {Process: &specs.Process{}, Linux: &specs.Linux{}}} {
			before, _ := json.Marshal(spec)
			if _, err := r.CreateContainer(t.Context(), testPod(), testContainer(), spec, func() error { return nil }); err != nil {
				t.Fatal(err)
			}
			if after, _ := json.Marshal(spec); string(after) != string(before) {
				t.Errorf("changed to %s", after)
			}
		}
		s.Stop()
	}
}

// TestAdjustments holds what a golden file would hide.
func TestAdjustments(t *testing.T) {
	type adjust = func(*api.ContainerAdjustment)
	cases := map[string]struct {
		ask  adjust
		want func(*specs.Spec) bool
	}{
		"replaced mount": {
			func(a *api.ContainerAdjustment) {
				a.RemoveMount("/dev")
				a.AddMount(&api.Mount{Destination: "/dev", Type: "bind", Source: "/x"})
			},
			func(s *specs.Spec) bool { return len(s.Mounts) == 3 && s.Mounts[1].Source == "/x" },
		},
		"replaced annotation": {
			func(a *api.ContainerAdjustment) { a.RemoveAnnotation("keep"); a.AddAnnotation("keep", "9") },
			func(s *specs.Spec) bool { return s.Annotations["keep"] == "9" },
		},
		"replaced device": {
			func(a *api.ContainerAdjustment) {
				a.AddDevice(&api.LinuxDevice{Path: "/dev/keep", Type: "c", Major: 9, Minor: 9})
			},
			func(s *specs.Spec) bool {
				return len(s.Linux.Devices) == 2 && s.Linux.Devices[1].Major == 9 && *s.Linux.Resources.Devices[1].Major == 9
			},
		},
		"environment keeps its order": {
			func(a *api.ContainerAdjustment) { a.AddEnv("Z", "1"); a.AddEnv("A", "1"); a.AddEnv("PATH", "/x") },
			func(s *specs.Spec) bool {
				return slices.Equal(s.Process.Env, []string{"PATH=/x", "DROP=1", "CHANGE=old", "LAST=1", "Z=1", "A=1"})
			},
		},
		"unlimited pids": {
			func(a *api.ContainerAdjustment) { a.SetLinuxPidLimits(-1) },
			func(s *specs.Spec) bool { return *s.Linux.Resources.Pids.Limit == -1 },
		},
		"memory limit keeps no swap on top": {
			func(a *api.ContainerAdjustment) { a.SetLinuxMemoryLimit(4 << 20) },
			func(s *specs.Spec) bool { return *s.Linux.Resources.Memory.Swap == 4<<20 },
		},
		"class of RDT": {
			func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("gold") },
			func(s *specs.Spec) bool { return s.Linux.IntelRdt.ClosID == "gold" },
		},
		"details of RDT": {
			func(a *api.ContainerAdjustment) { a.SetLinuxRDTClosID("x"); a.SetLinuxRDTEnableMonitoring(true) },
			func(s *specs.Spec) bool {
				return reflect.DeepEqual(s.Linux.IntelRdt, &specs.LinuxIntelRdt{ClosID: "x", EnableMonitoring: true})
			},
		},
		"slave mount": {
			func(a *api.ContainerAdjustment) {
				a.AddMount(&api.Mount{Destination: "/s", Type: "bind", Source: "/shared", Options: []string{"rslave"}})
			},
			func(s *specs.Spec) bool { return s.Linux.RootfsPropagation == "rslave" },
		},
		"no more I/O priority": {
			func(a *api.ContainerAdjustment) { a.SetLinuxIOPriority(&api.LinuxIOPriority{}) },
			func(s *specs.Spec) bool { return s.Process.IOPriority == nil },
		},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			spec, err := adjusted(t, start(t, nil), test.ask)
			if err != nil {
				t.Fatal(err)
			}
			if !test.want(spec) {
				text, _ := json.Marshal(spec)
				t.Errorf("made %s", text)
			}
		})
	}
}

func adjusted(t *testing.T, r *runtime, ask func(*api.ContainerAdjustment)) (*specs.Spec, error) {
	t.Helper()
	r.connect(t, &plugin{onCreate: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
		a := &api.ContainerAdjustment{}
		ask(a)
		return a, nil
	}})
	spec := testSpec()
	_, err := r.CreateContainer(t.Context(), testPod(), testContainer(), spec, func() error { return nil })
	return spec, err
}

// TestImpossibleAdjustments fail the creation, each with its class.
func TestImpossibleAdjustments(t *testing.T) {
	cases := map[string]struct {
		ask   func(*api.ContainerAdjustment)
		class error
	}{
		"block I/O class":        {func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("fast") }, errdefs.ErrNotImplemented},
		"no such resource limit": {func(a *api.ContainerAdjustment) { a.AddRlimit("NOFILE", 1, 1) }, errdefs.ErrInvalidArgument},
		"relative hook": {
			func(a *api.ContainerAdjustment) { a.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "hook"}}}) },
			errdefs.ErrInvalidArgument,
		},
		"relative device": {func(a *api.ContainerAdjustment) { a.AddDevice(&api.LinuxDevice{Path: "x"}) }, errdefs.ErrInvalidArgument},
		"mount on root":   {func(a *api.ContainerAdjustment) { a.AddMount(&api.Mount{Destination: "/"}) }, errdefs.ErrInvalidArgument},
		"kind of namespace": {
			func(a *api.ContainerAdjustment) { a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "net"}) },
			errdefs.ErrInvalidArgument,
		},
		"oom score":               {func(a *api.ContainerAdjustment) { a.SetLinuxOomScoreAdj(new(2000)) }, errdefs.ErrInvalidArgument},
		"cpuset":                  {func(a *api.ContainerAdjustment) { a.SetLinuxCPUSetCPUs("x") }, errdefs.ErrInvalidArgument},
		"cgroup of the node":      {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/") }, errdefs.ErrInvalidArgument},
		"cgroup of all pods":      {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/kubepods") }, errdefs.ErrInvalidArgument},
		"cgroup above":            {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/kubepods/ctr-1/..") }, errdefs.ErrInvalidArgument},
		"relative cgroup":         {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("ctr-1") }, errdefs.ErrInvalidArgument},
		"slice of a systemd node": {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("a.slice:cri:ctr-1") }, errdefs.ErrInvalidArgument},
		"shared mount": {
			func(a *api.ContainerAdjustment) {
				a.AddMount(&api.Mount{Destination: "/s", Type: "bind", Source: "/private", Options: []string{"rshared"}})
			},
			errdefs.ErrFailedPrecondition,
		},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := adjusted(t, start(t, nil), test.ask); !errors.Is(err, test.class) {
				t.Errorf("error %v, want %v", err, test.class)
			}
		})
	}
}

// TestPluginsBuildOnEachOther: each sees what the ones before it made, and may not undo it unsaid.
func TestPluginsBuildOnEachOther(t *testing.T) {
	r := start(t, nil)
	ask := func(index string, what func(*api.ContainerAdjustment, *api.Container)) *plugin {
		return &plugin{index: index, onCreate: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
			a := &api.ContainerAdjustment{}
			what(a, c)
			return a, nil
		}}
	}
	r.connect(t, ask("20", func(a *api.ContainerAdjustment, c *api.Container) {
		a.AddEnv("SEEN", c.GetEnv()[len(c.GetEnv())-1])
	}), stub.WithPluginName("second"))
	r.connect(t, ask("10", func(a *api.ContainerAdjustment, _ *api.Container) {
		a.AddEnv("FIRST", "1")
		a.RemoveEnv("DROP")
	}), stub.WithPluginName("first"))
	spec := testSpec()
	if _, err := r.CreateContainer(t.Context(), testPod(), testContainer(), spec, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{"PATH=/bin", "CHANGE=old", "LAST=1", "FIRST=1", "SEEN=FIRST=1"}
	if !slices.Equal(spec.Process.Env, want) {
		t.Errorf("environment %v, want %v", spec.Process.Env, want)
	}
	r.connect(t, ask("30", func(a *api.ContainerAdjustment, _ *api.Container) { a.AddEnv("FIRST", "2") }), stub.WithPluginName("clash"))
	if _, err := r.CreateContainer(t.Context(), testPod(), testContainer(), testSpec(), func() error { return nil }); err == nil {
		t.Error("two plugins set one variable, and the container was created")
	}
}
