// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A kubelet restarts a container by making the next attempt beside the old.
func TestNextAttempt(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "restarts")
	ids := map[string]bool{}
	for attempt := range uint32(3) {
		c := inHostNet("app", "exit", fmt.Sprint(attempt))
		c.Metadata.Attempt, c.LogPath = attempt, fmt.Sprintf("app-%d.log", attempt)
		id := d.Run(t, pod, c, p)
		ids[id] = true
		if st := d.AwaitExit(t, id); st.ExitCode != int32(attempt) || st.Metadata.Attempt != attempt {
			t.Errorf("attempt %d: %v", attempt, st)
		}
	}
	l, err := d.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: pod}})
	if err != nil || len(l.Containers) != 3 || len(ids) != 3 {
		t.Errorf("%d containers, %v", len(l.GetContainers()), err)
	}
	next := clone(p)
	next.Metadata.Attempt = 1
	if other := d.Pod(t, next); other == pod {
		t.Error("the next attempt at a pod is the same pod")
	}
}

func TestRemoveWhatRuns(t *testing.T) {
	d := node(t)
	config := d.PodConfig("removal")
	pod := d.Pod(t, config)
	one := d.Run(t, pod, nodetest.ContainerConfig("one", "stubborn"), config)
	remove(t, d, one)
	remove(t, d, one)
	d.Run(t, pod, nodetest.ContainerConfig("one", "stubborn"), config) // the name is free
	d.Run(t, pod, nodetest.ContainerConfig("two", "sleep"), config)
	d.Create(t, pod, nodetest.ContainerConfig("three"), config)
	removePod(t, d, pod)
	removePod(t, d, pod)
	l, err := d.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{})
	if err != nil || len(l.Containers) > 0 {
		t.Errorf("containers of a removed pod: %v, %v", l, err)
	}
	d.NothingLeft(t)
	contains(t, "the log outlives its container", d.LogOf(t, "two"), "")
}

func TestListFilters(t *testing.T) {
	d := node(t)
	a, pa := quickPod(t, d, "a")
	b, pb := quickPod(t, d, "b")
	stopped, _ := quickPod(t, d, "stopped")
	if _, err := d.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: stopped}); err != nil {
		t.Fatal(err)
	}
	labelled := func(c *cri.ContainerConfig) *cri.ContainerConfig {
		c.Labels = map[string]string{"app": c.Metadata.Name, "tier": "x"}
		return c
	}
	running := d.Run(t, a, labelled(inHostNet("running", "sleep")), pa)
	created := d.Create(t, a, labelled(inHostNet("created", "sleep")), pa)
	exited := d.Run(t, b, labelled(inHostNet("exited", "exit", "0")), pb)
	d.AwaitExit(t, exited)

	ready, notReady := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}, &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}
	for _, c := range []struct {
		filter *cri.PodSandboxFilter
		want   []string
	}{
		{nil, []string{a, b, stopped}},
		{&cri.PodSandboxFilter{Id: a}, []string{a}},
		{&cri.PodSandboxFilter{Id: a[:20]}, []string{a}},
		{&cri.PodSandboxFilter{State: ready}, []string{a, b}},
		{&cri.PodSandboxFilter{State: notReady}, []string{stopped}},
		{&cri.PodSandboxFilter{LabelSelector: map[string]string{"test": "b"}}, []string{b}},
		{&cri.PodSandboxFilter{LabelSelector: map[string]string{"test": "b"}, State: notReady}, nil},
	} {
		l, err := d.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range l.Items {
			got = append(got, i.Id)
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%v: pods %v, want %v", c.filter, got, c.want)
		}
	}
	state := func(s cri.ContainerState) *cri.ContainerStateValue { return &cri.ContainerStateValue{State: s} }
	for _, c := range []struct {
		filter *cri.ContainerFilter
		want   []string
	}{
		{nil, []string{running, created, exited}},
		{&cri.ContainerFilter{Id: created}, []string{created}},
		{&cri.ContainerFilter{PodSandboxId: a}, []string{running, created}},
		{&cri.ContainerFilter{PodSandboxId: a, State: state(cri.ContainerState_CONTAINER_RUNNING)}, []string{running}},
		{&cri.ContainerFilter{State: state(cri.ContainerState_CONTAINER_CREATED)}, []string{created}},
		{&cri.ContainerFilter{State: state(cri.ContainerState_CONTAINER_EXITED)}, []string{exited}},
		{&cri.ContainerFilter{LabelSelector: map[string]string{"tier": "x", "app": "exited"}}, []string{exited}},
		{&cri.ContainerFilter{LabelSelector: map[string]string{"tier": "y"}}, nil},
	} {
		l, err := d.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range l.Containers {
			got = append(got, i.Id)
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%v: containers %v, want %v", c.filter, got, c.want)
		}
	}
	s, err := d.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: running, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "verbose info", s.Info["info"], `"trace"`, "run container", `"pid"`, `"runtimeSpec"`)
	if s, err = d.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: running}); err != nil || len(s.Info) > 0 {
		t.Errorf("info nobody asked for: %v, %v", s.GetInfo(), err)
	}
	if s.Status.LogPath != filepath.Join(d.LogDir, "running.log") {
		t.Errorf("log path %q", s.Status.LogPath)
	}
}
