// SPDX-License-Identifier: Apache-2.0

package nri_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/nri"
)

// live is a whole life, with every call a teardown may repeat repeated.
func live(t *testing.T, s *nri.Service) {
	t.Helper()
	ctx, pod, c := t.Context(), testPod(), testContainer()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.RunPodSandbox(ctx, pod, func() error { return nil }))
	must(s.UpdatePodSandbox(ctx, pod, nil, &cri.LinuxContainerResources{CpuShares: 3}))
	s.PostUpdatePodSandbox(ctx, pod)
	_, err := s.CreateContainer(ctx, pod, c, testSpec(), func() error { return nil })
	must(err)
	s.PostCreateContainer(ctx, pod, c)
	must(s.StartContainer(ctx, pod, c))
	c.State, c.PID, c.StartedAt = cri.ContainerState_CONTAINER_RUNNING, 77, time.Unix(101, 0)
	s.PostStartContainer(ctx, pod, c)
	_, _, err = s.UpdateContainer(ctx, pod, c, &cri.LinuxContainerResources{CpuShares: 2})
	must(err)
	s.PostUpdateContainer(ctx, pod, c)
	c.State, c.PID, c.ExitCode, c.StatusReason, c.FinishedAt = cri.ContainerState_CONTAINER_EXITED, 0, 3, "Error", time.Unix(102, 0)
	for range 2 {
		s.StopContainer(ctx, pod, c)
	}
	for range 2 {
		s.StopPodSandbox(ctx, pod)
	}
	for range 2 {
		s.RemoveContainer(ctx, pod, c)
		s.RemovePodSandbox(ctx, pod)
	}
}

func TestLifeIsToldOnceAndInOrder(t *testing.T) {
	r, p := start(t, nil), &plugin{}
	r.connect(t, p)
	live(t, r.Service)
	want := []string{
		"RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "CreateContainer", "PostCreateContainer",
		"StartContainer", "PostStartContainer", "UpdateContainer", "PostUpdateContainer", "StopContainer",
		"StopPodSandbox", "RemoveContainer", "RemovePodSandbox",
	}
	if got := p.names(); !slices.Equal(got, want) {
		t.Fatalf("told %v, want %v", got, want)
	}
	for _, e := range p.seen() {
		if e.pod.GetName() != "web" || e.pod.GetUid() != "u-1" || e.pod.GetNamespace() != "default" || e.pod.GetIps()[0] != "10.0.0.7" ||
			e.pod.GetLabels()["app"] != "web" || e.pod.GetLinux().GetCgroupParent() != "/kubepods/pod1" || e.pod.GetPid() != 42 ||
			e.pod.GetLinux().GetPodResources().GetCpu().GetShares().GetValue() != 512 || len(e.pod.GetLinux().GetNamespaces()) != 4 {
			t.Errorf("%s: pod %v", e.name, e.pod)
		}
		if c := e.container; c != nil && (c.GetName() != "app" || c.GetPodSandboxId() != "pod-1" || c.GetAnnotations()["n"] != "2" ||
			c.GetArgs()[0] != "app" || c.GetLinux().GetCgroupsPath() != "/kubepods/pod1/ctr-1" || c.GetUser().GetUid() != 7 ||
			c.GetLinux().GetSeccompProfile().GetProfileType() != api.SecurityProfile_RUNTIME_DEFAULT || c.GetCreatedAt() != 100e9+5 ||
			c.GetImage().GetConfigDigest() != "sha256:c" || c.GetCDIDevices()[0].GetName() != "v.com/d=1") {
			t.Errorf("%s: container %v", e.name, c)
		}
	}
	stop := p.seen()[9].container
	if stop.GetState() != api.ContainerState_CONTAINER_STOPPED || stop.GetExitCode() != 3 || stop.GetStatusReason() != "Error" || stop.GetFinishedAt() == 0 {
		t.Errorf("stopped container %v", stop)
	}
}

func TestNilServiceAndNoPlugins(t *testing.T) {
	var off *nri.Service
	if err := off.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := off.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	live(t, off)
	off.Stop()
	r := start(t, nil)
	live(t, r.Service)
	if off.Active() || r.Active() {
		t.Error("active without a plugin")
	}
	committed := errors.New("commit")
	for _, s := range []*nri.Service{off, r.Service} {
		if err := s.RunPodSandbox(t.Context(), testPod(), func() error { return committed }); !errors.Is(err, committed) {
			t.Errorf("commit's error: %v", err)
		}
		if _, err := s.CreateContainer(t.Context(), testPod(), testContainer(), testSpec(), func() error { return committed }); !errors.Is(err, committed) {
			t.Errorf("commit's error: %v", err)
		}
	}
}

func TestRemovalOfWhatRanTellsTheStop(t *testing.T) {
	r, p := start(t, nil), &plugin{}
	r.connect(t, p)
	ctx, pod, c := t.Context(), testPod(), testContainer()
	if err := r.RunPodSandbox(ctx, pod, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	for _, started := range []bool{false, true} {
		if _, err := r.CreateContainer(ctx, pod, c, testSpec(), func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if started {
			if err := r.StartContainer(ctx, pod, c); err != nil {
				t.Fatal(err)
			}
		}
		r.StopContainer(ctx, pod, nri.Container{ID: "stranger"})
		r.RemoveContainer(ctx, pod, c)
	}
	r.RemovePodSandbox(ctx, pod)
	want := []string{
		"RunPodSandbox", "CreateContainer", "RemoveContainer", "CreateContainer", "StartContainer", "StopContainer",
		"RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
	}
	if got := p.names(); !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

func TestStockOfAnEarlierLife(t *testing.T) {
	ended, created := testContainer(), testContainer()
	ended.State, created.ID = cri.ContainerState_CONTAINER_EXITED, "ctr-2"
	down := testPod()
	down.Stopped = true
	world := func() ([]nri.Pod, []nri.Container) { return []nri.Pod{down}, []nri.Container{ended, created} }
	r, p := start(t, func(o *nri.Options) { o.State = world }), &plugin{}
	r.connect(t, p)
	ctx := t.Context()
	r.StopContainer(ctx, down, ended)
	r.StopPodSandbox(ctx, down)
	r.RemoveContainer(ctx, down, created)
	r.RemoveContainer(ctx, down, ended)
	r.RemovePodSandbox(ctx, down)
	if got, want := p.names(), []string{"RemoveContainer", "RemoveContainer", "RemovePodSandbox"}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

// TestRefusals: an error of a plugin fails what can still be prevented, and nothing else.
func TestRefusals(t *testing.T) {
	r := start(t, nil)
	ctx, pod, c := t.Context(), testPod(), testContainer()
	p := &plugin{on: func(context.Context, event) error { return errdefs.ErrNotFound.WithMessage("not today") }}
	r.connect(t, p)
	commits := 0
	commit := func() error { commits++; return nil }
	_, create := r.CreateContainer(ctx, pod, c, testSpec(), commit)
	_, _, update := r.UpdateContainer(ctx, pod, c, &cri.LinuxContainerResources{})
	for what, err := range map[string]error{
		"run pod": r.RunPodSandbox(ctx, pod, commit), "create container": create, "update container": update,
		"start container": r.StartContainer(ctx, pod, c), "update pod": r.UpdatePodSandbox(ctx, pod, nil, nil),
	} {
		if err == nil || !strings.Contains(err.Error(), "not today") || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		if errdefs.IsNotFound(err) {
			t.Errorf("%s: a plugin's class of error came through: %v", what, err)
		}
	}
	if commits != 0 {
		t.Errorf("%d commits of what was refused", commits)
	}
	r.StopContainer(ctx, pod, c)
	r.RemoveContainer(ctx, pod, c)
	r.StopPodSandbox(ctx, pod)
	r.RemovePodSandbox(ctx, pod)
	if got := p.names()[5:]; !slices.Equal(got, []string{"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"}) {
		t.Errorf("undone by %v", got)
	}
	if !r.Active() {
		t.Error("a plugin was disconnected for an error")
	}
}

func BenchmarkNoPlugins(b *testing.B) {
	s, err := nri.New(nri.Options{
		Socket: "/nonexistent", Host: testHost(), State: func() ([]nri.Pod, []nri.Container) { return nil, nil },
		Update: func(context.Context, []nri.Update) ([]nri.Update, error) { return nil, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, pod, c, spec := b.Context(), testPod(), testContainer(), &specs.Spec{}
	b.ReportAllocs()
	for b.Loop() {
		s.CreateContainer(ctx, pod, c, spec, func() error { return nil })
		s.StartContainer(ctx, pod, c)
		s.StopContainer(ctx, pod, c)
		s.RemoveContainer(ctx, pod, c)
	}
}
