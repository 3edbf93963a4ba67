// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/sandbox"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

func TestLife(t *testing.T) {
	w := newWorld(t)
	for name, in := range map[string]sandbox.NewPod{"own network": w.request(), "host network": w.hostRequest()} {
		id, err := w.Run(t.Context(), in)
		w.must(err)
		p := w.get(id)
		if p.Phase != state.PodReady || p.PausePID == 0 || (p.NetNS != "") != slices.Equal(p.IPs, []string{"203.0.113.7"}) {
			t.Errorf("%s: %+v", name, p)
		}
		for file, want := range map[string]string{"hostname": "web\n", "hosts": "localhost", "resolv.conf": ""} {
			text, err := os.ReadFile(filepath.Join(w.Layout.PodFiles(id), file))
			if err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%s: %s %q, %v", name, file, text, err)
			}
		}
		if ns, err := w.NetNSPath(id); err != nil || ns != p.NetNS {
			t.Errorf("%s: %q, %v", name, ns, err)
		}
		info, err := w.Info(t.Context(), id, 1<<20)
		if err != nil || !strings.Contains(info["info"], "runtimeSpec") {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		w.must(w.UpdateResources(t.Context(), id, &cri.LinuxContainerResources{CpuShares: 5}, &cri.LinuxContainerResources{CpuShares: 7}))
		if p = w.get(id); p.Overhead.CpuShares != 5 || p.Resources.CpuShares != 7 {
			t.Errorf("%s: %v, %v", name, p.Overhead, p.Resources)
		}
		c := w.start(id)
		w.must(w.Stop(t.Context(), id))
		w.must(w.Stop(t.Context(), id))
		if w.get(id).Phase != state.PodNotReady || w.d.Reaches(c, state.Exited).ExitCode != 137 {
			t.Errorf("%s: stopped: %s", name, w.get(id).Phase)
		}
		if _, err := w.NetNSPath(id); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: namespace of a stopped pod: %v", name, err)
		}
		w.must(w.Remove(t.Context(), id))
		w.clean()
		for what, err := range map[string]error{
			"stop": w.Stop(t.Context(), id), "remove": w.Remove(t.Context(), id), "update": w.UpdateResources(t.Context(), id, nil, nil),
		} {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %s of what is gone: %v", name, what, err)
			}
		}
	}
}

// The same request again, also side by side and after a restart, gets the same pod.
func TestSameRequestAgain(t *testing.T) {
	w := newWorld(t)
	in := w.request()
	ids := make([]state.PodID, 4)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			id, err := w.Run(t.Context(), in)
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	all.Wait()
	w.connect()
	again, err := w.Run(t.Context(), in)
	w.must(err)
	if len(slices.Compact(append(ids, again))) != 1 {
		t.Errorf("pods %v, then %s", ids, again)
	}
	other := sandbox.NewPod{Config: w.request().Config}
	other.Config.Metadata = in.Config.Metadata
	other.Config.Hostname = "other"
	if id, err := w.Run(t.Context(), other); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another configuration: %s, %v", id, err)
	}
	if id, err := w.Run(t.Context(), sandbox.NewPod{Config: w.request().Config, Handler: "none"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no such handler: %s, %v", id, err)
	}
	w.must(w.Stop(t.Context(), again))
	if id, err := w.Run(t.Context(), in); !errdefs.IsAlreadyExists(err) {
		t.Errorf("of what is stopped: %s, %v", id, err)
	}
	for range 3 {
		all.Go(func() {
			if err := w.Remove(t.Context(), again); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.clean()
}

// Wherever a run fails, it leaves nothing, and the same request again works.
func TestRunIsUndone(t *testing.T) {
	w := newWorld(t)
	in := w.request()
	places := w.d.Places("run ", func() {
		id, err := w.Run(t.Context(), in)
		w.must(err)
		w.must(w.Remove(t.Context(), id))
	})
	if len(places) < 14 {
		t.Fatalf("places %q", places)
	}
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			w.d.At("run ", place, fails)
			if id, err := w.Run(t.Context(), in); !errors.Is(err, errInjected) || id != "" {
				t.Errorf("%q, %v", id, err)
			}
			w.clean()
			id, err := w.Run(t.Context(), in)
			w.must(err)
			w.must(w.Remove(t.Context(), id))
		})
	}
}

// What runtime and plugin do wrong in a run leaves nothing either.
func TestRunMeetsFaults(t *testing.T) {
	w := newWorld(t)
	for verb, kinds := range map[string][]fakeruntime.Kind{
		"run": {fakeruntime.Fail, fakeruntime.NoPid, fakeruntime.Half, fakeruntime.Rubbish},
		"ADD": {fakeruntime.Fail, fakeruntime.Half, fakeruntime.Rubbish, fakeruntime.Hang},
	} {
		for _, kind := range kinds {
			w.node.Fault(verb, kind)
			if id, err := w.Run(t.Context(), w.request()); err == nil {
				t.Errorf("%s, %s: %s", verb, kind, id)
			}
			w.clean()
		}
	}
}

// A run that cannot be undone leaves a pod that is not ready, says why, and is
// removed like any other, or by the same request again.
func TestRunThatCannotBeUndone(t *testing.T) {
	w := newWorld(t)
	in := w.request()
	for range 2 {
		w.node.Fault("run", fakeruntime.Fail)
		w.node.Fault("DEL", fakeruntime.Fail)
		if _, err := w.Run(t.Context(), in); err == nil || !strings.Contains(err.Error(), "tear down pod") {
			t.Fatalf("%v", err)
		}
		for p := range w.Store.Pods() {
			if p.Phase != state.PodNotReady || p.Reason != "RunFailed" || !strings.Contains(p.Message, "refused by the test") {
				t.Errorf("%+v", p)
			}
		}
		id, err := w.Run(t.Context(), in)
		w.must(err)
		if pods, _ := w.Store.Count(); pods != 1 {
			t.Errorf("%d pods", pods)
		}
		w.must(w.Remove(t.Context(), id))
		w.clean()
	}
}

// A plugin that refuses holds up the release of the network, not the end of what runs.
func TestStopMeetsFaults(t *testing.T) {
	w := newWorld(t)
	id := w.run()
	c := w.start(id)
	for _, kind := range []fakeruntime.Kind{fakeruntime.Fail, fakeruntime.Half, fakeruntime.Hang} {
		w.node.Fault("DEL", kind)
		if err := w.Stop(t.Context(), id); err == nil {
			t.Errorf("%s: stopped", kind)
		}
		watched, err := w.Monitor.List(t.Context())
		if err != nil || len(watched) != 0 || w.get(id).Phase != state.PodNotReady {
			t.Errorf("%s: %v run, %v; pod is %s", kind, watched, err, w.get(id).Phase)
		}
	}
	w.must(w.Stop(t.Context(), id))
	w.d.Reaches(c, state.Exited)
	w.must(w.Remove(t.Context(), id))
	w.clean()
}

// Wherever a stop or removal fails, the next one finishes it.
func TestRemoveIsFinished(t *testing.T) {
	w := newWorld(t)
	for operation, do := range map[string]func(context.Context, state.PodID) error{"stop pod": w.Stop, "remove pod": w.Remove} {
		places := w.d.Places(operation, func() {
			id := w.run()
			w.start(id)
			w.must(do(t.Context(), id))
			_ = w.Remove(t.Context(), id)
		})
		for _, place := range places {
			t.Run(operation+" "+place, func(t *testing.T) {
				id := w.run()
				w.start(id)
				w.d.At(operation, place, fails)
				if err := do(t.Context(), id); !errors.Is(err, errInjected) {
					t.Errorf("%v", err)
				}
				if err := do(t.Context(), id); err != nil && place != "drop record after" {
					t.Error(err)
				}
				if err := w.Remove(t.Context(), id); err != nil && !errdefs.IsNotFound(err) {
					t.Error(err)
				}
				w.clean()
			})
		}
	}
}

// A caller that gives up does not cut the run off; the same request joins it.
func TestCallerGivesUp(t *testing.T) {
	w := newWorld(t)
	in := w.request()
	ctx, cancel := context.WithCancel(t.Context())
	resume := make(chan struct{})
	w.d.At("run ", "make namespaces before", func() error { cancel(); <-resume; return nil })
	if _, err := w.Run(ctx, in); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), `"make namespaces"`) {
		t.Errorf("the caller is told %v", err)
	}
	close(resume)
	id, err := w.Run(t.Context(), in)
	w.must(err)
	if pods, _ := w.Store.Count(); pods != 1 {
		t.Errorf("%d pods", pods)
	}
	w.must(w.Remove(t.Context(), id))
}
