// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package e2e runs a real kubelet on the built daemon. There is no API server:
// the kubelet takes its pods from manifests in a folder and answers on its own
// port. All of it lives in mount and network namespaces of its own.
package e2e

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/kubelet"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is for machines in software emulation; elsewhere nothing takes half a minute.
const patience = 3 * time.Minute

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 { // the test says so
		os.Exit(m.Run())
	}
	clean := kubelet.RemoveAbsent()
	code := nodetest.Main(m, kubelet.Hide)
	clean() // what the namespaces hid; the one inside them finds it in use
	os.Exit(code)
}

// TestKubelet goes through the life of a node with two pods: both start, one
// is probed and one crashes; the daemon dies and comes back; pods come and go.
func TestKubelet(t *testing.T) {
	if _, err := os.Stat(kubeletProgram(t)); err != nil {
		t.Skip("no kubelet: make e2e builds it")
	}
	c := newCgroup(t)
	d := nodetest.Start(t, nodetest.Preload(t))
	k := startKubelet(t, d, c)
	k.add(t, "web", map[string]any{
		"name": "app", "args": []string{"serve", "8080"},
		"readinessProbe": map[string]any{"exec": map[string]any{"command": []string{"/bin/testbox", "env"}}, "periodSeconds": 1, "timeoutSeconds": 10},
		"resources":      map[string]any{"limits": map[string]string{"memory": "64Mi", "cpu": "500m"}},
	})
	k.add(t, "crash", map[string]any{"name": "app", "args": []string{"exit", "3"}})

	var web pod
	k.await(t, patience, "a pod with an exec probe is ready", func(pods []pod) bool {
		p, ok := named(pods, "web")
		web = p
		return ok && p.ready() && p.Status.PodIP != ""
	})
	logs, err := k.get(t.Context(), "/containerLogs/default/web-"+nodeName+"/app")
	if err != nil || !strings.Contains(string(logs), "serving on 8080") {
		t.Errorf("logs through the kubelet: %q, %v", logs, err)
	}
	k.awaitRestarts(t, 1)

	app := web.Status.ContainerStatuses[0].ContainerID
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // long enough for relists and probes that fail
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.awaitRestarts(t, 2)
	k.add(t, "late", map[string]any{"name": "app", "args": []string{"serve", "8081"}})
	k.await(t, patience, "the node works on after its runtime was killed", func(pods []pod) bool {
		p, ok := named(pods, "web")
		late, there := named(pods, "late")
		return ok && there && p.ready() && late.ready()
	})
	k.await(t, time.Second, "the container that ran all the while is the same", func(pods []pod) bool {
		p, _ := named(pods, "web")
		c := p.Status.ContainerStatuses[0]
		return c.ContainerID == app && c.RestartCount == 0
	})

	for _, name := range []string{"web", "crash", "late"} {
		if err := os.Remove(k.manifest(name)); err != nil {
			t.Fatal(err)
		}
	}
	k.await(t, patience, "the pods are gone from the kubelet", func(pods []pod) bool { return len(pods) == 0 })
	nodetest.Eventually(t, patience, "the pods are gone from the runtime", func() bool {
		pods, err := d.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
		return err == nil && len(pods.Items) == 0
	})
	if left := d.Cgroups(); len(left) > 0 {
		t.Errorf("cgroups left: %v", left)
	}
}

// TestEventedPLEG lets the kubelet go by the runtime's events instead of its
// lists: a pod's init containers run once each, in order, and a crash is seen.
func TestEventedPLEG(t *testing.T) {
	if _, err := os.Stat(kubeletProgram(t)); err != nil {
		t.Skip("no kubelet: make e2e builds it")
	}
	c := newCgroup(t)
	d := nodetest.Start(t, nodetest.Preload(t))
	k := startKubelet(t, d, c, "EventedPLEG")
	k.add(t, "web", map[string]any{"name": "app", "args": []string{"serve", "8080"}},
		map[string]any{"name": "first", "args": []string{"exit"}}, map[string]any{"name": "second", "args": []string{"exit"}})
	k.add(t, "crash", map[string]any{"name": "app", "args": []string{"exit", "3"}})
	k.await(t, patience, "a pod with init containers is ready", func(pods []pod) bool {
		p, ok := named(pods, "web")
		return ok && p.ready()
	})
	k.awaitRestarts(t, 2)
	all, err := d.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ran := map[string]int{}
	for _, c := range all.Containers {
		if c.Labels["io.kubernetes.pod.name"] == "web-"+nodeName {
			ran[c.Metadata.Name]++
		}
	}
	if want := map[string]int{"first": 1, "second": 1, "app": 1}; !maps.Equal(ran, want) {
		t.Errorf("containers of the pod with init containers: %v, want %v", ran, want)
	}
	metrics, err := k.get(t.Context(), "/metrics")
	if err != nil || !strings.Contains(string(metrics), "kubelet_evented_pleg_connection_success_count 1") {
		t.Errorf("the kubelet does not say that it took events: %v", err)
	}
	for _, name := range []string{"web", "crash"} {
		if err := os.Remove(k.manifest(name)); err != nil {
			t.Fatal(err)
		}
	}
	k.await(t, patience, "the pods are gone from the kubelet", func(pods []pod) bool { return len(pods) == 0 })
}

// awaitRestarts waits until the kubelet has started the crashing container again n times, and knows its exit code.
func (k *process) awaitRestarts(t *testing.T, n int) {
	t.Helper()
	k.await(t, patience, fmt.Sprintf("a crashing container was restarted %d times", n), func(pods []pod) bool {
		p, ok := named(pods, "crash")
		if !ok || len(p.Status.ContainerStatuses) != 1 {
			return false
		}
		c := p.Status.ContainerStatuses[0]
		return c.RestartCount >= n && c.LastState.Terminated != nil && c.LastState.Terminated.ExitCode == 3
	})
}
