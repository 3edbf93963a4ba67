// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
)

// Removals of what runs, side by side, are one.
func TestRemovesJoin(t *testing.T) {
	w := newCreator(t)
	id := w.start("trap : TERM; while :; do sleep 1000; done")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := w.Remove(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.gone(id)
	if err := w.Stop(t.Context(), id, 0); !errdefs.IsNotFound(err) {
		t.Errorf("stop of what is removed: %v", err)
	}
}

// Wherever a removal fails, the record says that it began, and the next one
// finishes it; so does the next daemon.
func TestRemoveIsFinished(t *testing.T) {
	w := newCreator(t)
	places := w.d.Places("remove container", func() { w.must(w.Remove(t.Context(), w.start(sleeper))) })
	if len(places) < 16 {
		t.Fatalf("places %q", places)
	}
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			id := w.start(sleeper)
			w.failAt("remove container", place)
			if err := w.Remove(t.Context(), id); !errors.Is(err, errInjected) {
				t.Errorf("%v", err)
			}
			if c, err := w.Store.Container(string(id)); err == nil && c.Phase != state.Removing {
				t.Errorf("it is %s", c.Phase)
			}
			if err := w.Remove(t.Context(), id); err != nil && place != "drop record after" {
				t.Error(err)
			}
			w.gone(id)
		})
	}
}

// A runtime that cannot free what it keeps holds the removal up, not the stop.
func TestDeleteFails(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	w.node.Fault("delete", fakeruntime.Fail)
	w.must(w.Stop(t.Context(), id, 0))
	w.node.Eventually("the runtime was asked", func() bool { return len(w.node.Calls("delete")) == 1 })
	w.node.Fault("delete", fakeruntime.Fail)
	if err := w.Remove(t.Context(), id); err == nil || w.get(id).Phase != state.Removing {
		t.Errorf("remove: %v, %s", err, w.get(id).Phase)
	}
	w.must(w.Remove(t.Context(), id))
	w.gone(id)
	other := w.start(sleeper)
	w.node.Fault("delete", fakeruntime.Absent)
	w.must(w.Remove(t.Context(), other))
}

// What has no record is torn down by its id, also when the caller gives up.
func TestRemoveOrphan(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	pid := w.get(id).PID
	w.must(w.Store.DropContainer(id))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.RemoveOrphan(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	w.must(w.RemoveOrphan(t.Context(), id))
	w.gone(id)
	if alive(pid) {
		t.Error("its process runs")
	}
}

// A plugin may have a container evicted; one that is gone is none of its business.
func TestEviction(t *testing.T) {
	w := newCreator(t)
	id := w.start(sleeper)
	failed, err := w.ApplyUpdates(t.Context(), []nri.Update{
		{ContainerID: string(id), Evict: true, Reason: "room"}, {ContainerID: state.NewID(), Evict: true}, {ContainerID: state.NewID()},
	})
	if err != nil || len(failed) != 0 || w.get(id).Phase != state.Exited {
		t.Errorf("%v, %v; it is %s", failed, err, w.get(id).Phase)
	}
	pods, containers := w.Visible()
	if len(pods) != 1 || len(containers) != 1 || containers[0].ExitCode != 137 || pods[0].ID != string(w.get(id).Pod) {
		t.Errorf("plugins see %v, %v", pods, containers)
	}
}
