// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// What is tried until it works is given up at the daemon's end: here nothing
// works, for there is no monitor.
func TestRetriesEndWithTheDaemon(t *testing.T) {
	layout := state.Layout{Root: t.TempDir(), State: t.TempDir()}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := state.Open(layout, "boot", log)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := store.BeginPod(state.Pod{ID: state.PodID(state.NewID()), Config: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(*Service, context.Context) error{
		"undo":  func(s *Service, ctx context.Context) error { return s.undo(ctx, p.ID) },
		"sweep": func(s *Service, ctx context.Context) error { return s.sweepAgain(ctx, view{}, errors.New("first")) },
	} {
		t.Run(name, func(t *testing.T) {
			daemon, end := context.WithCancel(t.Context())
			o := Options{Store: store, Ops: state.NewOps(daemon), Layout: layout, Monitor: monitor.NewClient(monitor.ClientOptions{Log: log}), Log: log}
			o.Runtime, err = runc.New(runc.Options{
				Handlers: []runc.Handler{{Name: "none", Path: "/nonexistent", Root: layout.RuntimeRoot("none")}}, Default: "none", Monitor: o.Monitor,
			})
			if err != nil {
				t.Fatal(err)
			}
			o.Containers = container.New(container.Options{Store: store, Ops: o.Ops, Layout: layout, Monitor: o.Monitor, Runtime: o.Runtime, Log: log})
			began, gaveUp := make(chan struct{}), make(chan error, 1)
			state.Go(o.Ops, name, func(ctx context.Context) error {
				close(began)
				return do(New(o), ctx)
			}, func(err error) { gaveUp <- err })
			<-began
			end()
			select {
			case err := <-gaveUp:
				if err == nil {
					t.Error("it says that it is done")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it goes on after the daemon's end")
			}
			o.Ops.Wait(context.Background())
		})
	}
}
