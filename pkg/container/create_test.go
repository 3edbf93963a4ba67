// SPDX-License-Identifier: Apache-2.0

package container_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/state"
)

func TestLife(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), "echo out; echo err >&2; exit 7")
	id, err := w.Create(t.Context(), in)
	w.must(err)
	if c := w.get(id); c.Phase != state.Created || c.PID != 0 || c.ImageID == "" || c.LogPath == "" {
		t.Errorf("created: %+v", c)
	}
	w.must(w.Start(t.Context(), id))
	c := w.ended(id)
	if c.ExitCode != 7 || c.Reason != "Error" || c.StartedAt.IsZero() || c.FinishedAt.Before(c.StartedAt) {
		t.Errorf("ended: %+v", c)
	}
	if log, err := os.ReadFile(c.LogPath); err != nil || !strings.Contains(string(log), " stdout F out\n") || !strings.Contains(string(log), " stderr F err\n") {
		t.Errorf("log %q, %v", log, err)
	}
	w.must(w.Stop(t.Context(), id, time.Minute))
	w.must(w.Remove(t.Context(), id))
	w.gone(id)
	if _, err := os.Stat(c.LogPath); err != nil {
		t.Errorf("the log is the kubelet's, and gone: %v", err)
	}
	if err := w.Remove(t.Context(), id); !errdefs.IsNotFound(err) {
		t.Errorf("removed again: %v", err)
	}
}

// The same request again gets the same container for as long as that was not
// started; another request of the same name, or a later one, is refused.
func TestSameRequestAgain(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), sleeper)
	ids := make([]state.ContainerID, 4)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			id, err := w.Create(t.Context(), in)
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	all.Wait()
	if w.connect(); len(slices.Compact(ids)) != 1 {
		t.Errorf("calls side by side made containers %v", ids)
	}
	again, err := w.Create(t.Context(), in)
	if err != nil || again != ids[0] {
		t.Errorf("after a restart: %s, %v; want %s", again, err, ids[0])
	}
	other := w.request(in.Pod, "exit 3")
	if id, err := w.Create(t.Context(), other); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another configuration: %s, %v", id, err)
	}
	w.must(w.Start(t.Context(), again))
	if id, err := w.Create(t.Context(), in); !errdefs.IsAlreadyExists(err) {
		t.Errorf("while it runs: %s, %v", id, err)
	}
	w.must(w.Remove(t.Context(), again))
	next, err := w.Create(t.Context(), in)
	if err != nil || next == again {
		t.Errorf("after its removal: %s, %v", next, err)
	}
}

func TestCreateIsRefused(t *testing.T) {
	w := newCreator(t)
	down := w.pod()
	_, err := w.Store.MovePod(down, state.PodDown, nil)
	w.must(err)
	for name, c := range map[string]struct {
		change func(*container.NewContainer)
		class  func(error) bool
	}{
		"no pod":           {func(in *container.NewContainer) { in.Pod = state.PodID(state.NewID()) }, errdefs.IsNotFound},
		"pod is down":      {func(in *container.NewContainer) { in.Pod = down }, errdefs.IsFailedPrecondition},
		"no image":         {func(in *container.NewContainer) { in.Config.Image.Image = "test.local/none:1" }, errdefs.IsNotFound},
		"log outside":      {func(in *container.NewContainer) { in.Config.LogPath = "../x" }, errdefs.IsInvalidArgument},
		"log relative":     {func(in *container.NewContainer) { in.Sandbox = &cri.PodSandboxConfig{LogDirectory: "logs"} }, errdefs.IsInvalidArgument},
		"no user":          {func(in *container.NewContainer) { in.Config.Linux.SecurityContext.RunAsUsername = "nobody-here" }, errdefs.IsInvalidArgument},
		"no volume image":  {func(in *container.NewContainer) { in.Config.Mounts = imageMount("test.local/none:1", "") }, errdefs.IsNotFound},
		"no sub path":      {func(in *container.NewContainer) { in.Config.Mounts = imageMount(in.Config.Image.Image, "none") }, errdefs.IsInvalidArgument},
		"no target":        {func(in *container.NewContainer) { target(in, state.NewID()) }, errdefs.IsNotFound},
		"target elsewhere": {func(in *container.NewContainer) { target(in, string(w.start(sleeper))) }, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			in := w.request(w.pod(), sleeper)
			c.change(&in)
			_, before := w.Store.Count()
			if id, err := w.Create(t.Context(), in); !c.class(err) {
				t.Errorf("%s, %v", id, err)
			}
			if _, after := w.Store.Count(); after != before && name != "target elsewhere" {
				t.Errorf("%d records, %d before", after, before)
			}
		})
	}
}

func imageMount(image, sub string) []*cri.Mount {
	return []*cri.Mount{{ContainerPath: "/volume", Readonly: true, Image: &cri.ImageSpec{Image: image}, ImageSubPath: sub}}
}

func target(in *container.NewContainer, id string) {
	options := in.Config.Linux.SecurityContext.NamespaceOptions
	options.Pid, options.TargetId = cri.NamespaceMode_TARGET, id
}

// What a container mounts and shares is there for its spec.
func TestVolumesAndTarget(t *testing.T) {
	w := newCreator(t)
	pod := w.pod()
	first, err := w.Create(t.Context(), w.request(pod, sleeper))
	w.must(err)
	in := w.request(pod, sleeper)
	in.Config.Metadata.Name = "second"
	in.Config.Mounts = append(imageMount(in.Config.Image.Image, "bin"),
		&cri.Mount{ContainerPath: "/data", HostPath: filepath.Join(w.node.Dir, "data")})
	target(&in, string(first))
	if _, err := w.Create(t.Context(), in); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a target that does not run: %v", err)
	}
	w.must(w.Start(t.Context(), first))
	id, err := w.Create(t.Context(), in)
	w.must(err)
	spec, err := w.Runtime.Spec(string(id))
	w.must(err)
	text := fmt.Sprint(spec.Mounts)
	if volumes := w.get(id).Volumes; len(volumes) != 1 || !strings.Contains(text, volumes[0].Target+"/bin") || !strings.Contains(text, w.node.Dir+"/data") {
		t.Errorf("volumes %v, mounts %s", volumes, text)
	}
	if !strings.Contains(fmt.Sprint(spec.Linux.Namespaces), fmt.Sprintf("/proc/%d/ns/pid", w.get(first).PID)) {
		t.Errorf("namespaces %v", spec.Linux.Namespaces)
	}
	w.must(errors.Join(w.Remove(t.Context(), id), w.Remove(t.Context(), first)))
	w.gone(id)
}

var errInjected = errors.New("injected")

// failAt makes an operation fail at one place, once.
func (w *world) failAt(operation, place string) {
	w.d.At(operation, place, func() error { return errInjected })
}

// Wherever a create fails, it leaves nothing, and the same request again works.
func TestCreateIsUndone(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), sleeper)
	places := w.d.Places("create ", func() {
		id, err := w.Create(t.Context(), in)
		w.must(err)
		w.must(w.Remove(t.Context(), id))
	})
	if len(places) < 14 {
		t.Fatalf("places %q", places)
	}
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			w.failAt("create ", place)
			id, err := w.Create(t.Context(), in)
			if !errors.Is(err, errInjected) || id != "" {
				t.Errorf("%q, %v", id, err)
			}
			if _, n := w.Store.Count(); n != 0 {
				t.Errorf("%d records are left", n)
			}
			if id, err = w.Create(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			w.must(w.Remove(t.Context(), id))
			w.gone(id)
		})
	}
}

// A create that cannot even be undone leaves its record, and the next one of the
// same name, or the next daemon, undoes it.
func TestCreateThatCannotBeUndone(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), sleeper)
	stuck := func() state.ContainerID {
		t.Helper()
		w.d.AtSteps(func(op, step string, _ state.Moment) error {
			if strings.HasPrefix(op, "create ") && (step == "build spec" || step == "drop bundle") {
				return errInjected
			}
			return nil
		})
		_, err := w.Create(t.Context(), in)
		w.d.AtSteps(nil)
		for c := range w.Store.Containers() {
			if c.Phase == state.Creating && strings.Contains(err.Error(), "tear down container") {
				return c.ID
			}
		}
		t.Fatalf("no record is left: %v", err)
		return ""
	}
	first := stuck()
	id, err := w.Create(t.Context(), in)
	w.must(err)
	w.gone(first)
	w.must(w.Remove(t.Context(), id))
	second := stuck()
	w.connect()
	rest, err := w.Recover(t.Context(), w.get(second), container.Gone, 0)
	w.must(err)
	w.must(rest(t.Context()))
	w.gone(second)
}

// A caller that gives up is told where the create is; the create goes on, and the
// same request again joins it.
func TestCallerGivesUp(t *testing.T) {
	w := newCreator(t)
	in := w.request(w.pod(), sleeper)
	reached, resume := make(chan struct{}), make(chan struct{})
	w.d.At("create ", "build spec before", func() error { close(reached); <-resume; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	if _, err := w.Create(ctx, in); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), `"build spec"`) {
		t.Errorf("the caller is told %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.Create(t.Context(), in)
		done <- err
	}()
	close(resume)
	w.must(<-done)
	if _, n := w.Store.Count(); n != 1 {
		t.Errorf("%d containers", n)
	}
}
