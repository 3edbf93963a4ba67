// SPDX-License-Identifier: Apache-2.0

package nri_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/cri-shim/cri-shim/pkg/nri"
)

// limit is how long a plugin may take where that is short.
const limit = 200 * time.Millisecond

func hasty(o *nri.Options) { o.RequestTimeout, o.RegistrationTimeout = limit, limit }

// stuck never answers, until the test ends.
func stuck(t *testing.T) func(context.Context, event) error {
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	return func(context.Context, event) error { <-ended; return nil }
}

func TestSilentPluginIsDropped(t *testing.T) {
	r := start(t, hasty)
	p, good := &plugin{on: stuck(t)}, &plugin{index: "20"}
	r.connect(t, p)
	r.connect(t, good)
	ctx, pod, c := t.Context(), testPod(), testContainer()
	commits := 0
	began := time.Now()
	for range 5 {
		if _, err := r.CreateContainer(ctx, pod, c, testSpec(), func() error { commits++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("five creations took %s, one time-out is %s", took, limit)
	}
	if commits != 5 || len(good.names()) != 5 {
		t.Errorf("%d commits, the other plugin saw %v", commits, good.names())
	}
	await(t, p.closed, "end of the silent plugin's connection")
}

func TestPluginThatInsistsOnBeingAsked(t *testing.T) {
	r := start(t, hasty)
	p := &plugin{on: stuck(t)}
	r.connect(t, p, stub.WithFailurePolicy(&api.FailurePolicy{FailRequest: true}))
	err := r.RunPodSandbox(t.Context(), testPod(), func() error { t.Error("committed"); return nil })
	if err == nil || !strings.Contains(err.Error(), "10-test") {
		t.Errorf("error %v does not name the plugin", err)
	}
}

func TestCallersEndIsNotThePluginsFault(t *testing.T) {
	r := start(t, nil)
	r.connect(t, &plugin{on: stuck(t)})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.StartContainer(ctx, testPod(), testContainer()); err == nil || ctx.Err() == nil {
		t.Errorf("error %v", err)
	}
	if !r.Active() {
		t.Error("the plugin was dropped")
	}
}

// TestStrangersOnTheSocket: who connects and says nothing keeps neither the node nor other plugins from working.
func TestStrangersOnTheSocket(t *testing.T) {
	r := start(t, hasty)
	for range 2 {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	began := time.Now()
	live(t, r.Service)
	if took := time.Since(began); took > limit {
		t.Errorf("a life took %s", took)
	}
	p := &plugin{}
	r.connect(t, p)
	live(t, r.Service)
	if len(p.names()) == 0 {
		t.Error("the plugin after the strangers saw nothing")
	}
}

// TestSilenceDuringSynchronisation: operations wait as long as a plugin may take, and then go on.
func TestSilenceDuringSynchronisation(t *testing.T) {
	r := start(t, hasty)
	ended := make(chan struct{})
	defer close(ended)
	p := &plugin{onSync: func() []*api.ContainerUpdate { <-ended; return nil }}
	r.connect(t, p)
	began := time.Now()
	live(t, r.Service)
	if took := time.Since(began); took > time.Second {
		t.Errorf("a life took %s", took)
	}
	await(t, p.closed, "end of the silent plugin's connection")
	if len(p.names()) != 0 || r.Active() {
		t.Errorf("a plugin that was not synchronised saw %v", p.names())
	}
}

func TestPluginThatLeaves(t *testing.T) {
	r, p := start(t, nil), &plugin{}
	s := r.connect(t, p)
	live(t, r.Service)
	s.Stop()
	await(t, p.closed, "end of the connection")
	live(t, r.Service)
	if r.Active() {
		t.Error("active without a plugin")
	}
}

func TestSocketOfAnotherRuntime(t *testing.T) {
	r := start(t, nil)
	s, err := nri.New(nri.Options{
		Socket: r.socket, Host: testHost(), State: func() ([]nri.Pod, []nri.Container) { return nil, nil },
		Update: func(context.Context, []nri.Update) ([]nri.Update, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("error %v", err)
	}
	r.connect(t, &plugin{}) // still served by the first
}

func TestOptions(t *testing.T) {
	if _, err := nri.New(nri.Options{Socket: "/x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v", err)
	}
}

func TestValidation(t *testing.T) {
	hook := func(a *api.ContainerAdjustment) { a.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/h"}}}) }
	sysctl := func(a *api.ContainerAdjustment) { a.SetLinuxSysctl("net.x", "1") }
	cases := map[string]struct {
		rules   nri.Validation
		ask     func(*api.ContainerAdjustment)
		refused bool
	}{
		"hooks":           {nri.Validation{RejectHooks: true}, hook, true},
		"hooks allowed":   {nri.Validation{RejectSysctls: true}, hook, false},
		"sysctls":         {nri.Validation{RejectSysctls: true}, sysctl, true},
		"missing plugin":  {nri.Validation{RequiredPlugins: []string{"other"}}, sysctl, true},
		"required plugin": {nri.Validation{RequiredPlugins: []string{"test"}}, sysctl, false},
		"tolerated":       {nri.Validation{RequiredPlugins: []string{"other"}, TolerateMissingAnnotation: "tolerate"}, sysctl, false},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(o *nri.Options) { o.Validation = &test.rules })
			r.connect(t, &plugin{onCreate: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
				a := &api.ContainerAdjustment{}
				test.ask(a)
				return a, nil
			}})
			pod := testPod()
			pod.Annotations = map[string]string{"tolerate": "true"}
			_, err := r.CreateContainer(t.Context(), pod, testContainer(), testSpec(), func() error { return nil })
			if (err != nil) != test.refused {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestRequiredPluginsAreRequiredFromTheStart(t *testing.T) {
	r := start(t, func(o *nri.Options) { o.Validation = &nri.Validation{RequiredPlugins: []string{"test"}} })
	if _, err := r.CreateContainer(t.Context(), testPod(), testContainer(), testSpec(), func() error { return nil }); err == nil {
		t.Error("created without the required plugin")
	}
}

// TestLatePluginMissesNothing creates containers all around a synchronisation: each is in the snapshot or announced.
func TestLatePluginMissesNothing(t *testing.T) {
	r := start(t, nil)
	r.connect(t, &plugin{})
	ctx := t.Context()
	var ids []string
	var mu sync.Mutex
	create := func(id string) {
		c := testContainer()
		c.ID = id
		if _, err := r.CreateContainer(ctx, testPod(), c, testSpec(), func() error { r.addContainer(c); return nil }); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, id)
	}
	create("before")
	release := make(chan struct{})
	late := &plugin{index: "20", onSync: func() []*api.ContainerUpdate { <-release; return nil }}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, worker := range []string{"a", "b", "c"} {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					create(worker + string(rune('0'+n%10)) + time.Now().Format(".000000000"))
				}
			}
		})
	}
	r.connect(t, late)
	created := make(chan struct{})
	go func() { create("during"); close(created) }()
	select {
	case <-created:
		t.Error("a container was created while a plugin was being synchronised")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	await(t, created, "creation after the synchronisation")
	close(stop)
	wg.Wait()
	known := map[string]int{}
	for _, c := range late.ctrs {
		known[c.GetId()]++
	}
	for _, e := range late.seen() {
		known[e.container.GetId()]++
	}
	for _, id := range ids {
		if known[id] != 1 {
			t.Errorf("container %s was told %d times", id, known[id])
		}
	}
	if len(late.ctrs) == 0 || !slices.Contains(ids, "during") {
		t.Errorf("%d containers in the snapshot of %d", len(late.ctrs), len(ids))
	}
}
