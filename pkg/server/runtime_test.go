// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/server"
	"github.com/cri-shim/cri-shim/pkg/state"
)

func TestContainerEvents(t *testing.T) {
	n := openNode(t)
	events, err := n.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	p := n.addPod(t, testPod("p"))
	c := n.addContainer(t, testContainer(p, "c"), state.Prepared, state.Launch, state.Run, state.Exit, state.Remove)
	if err := n.store.DropContainer(c.ID); err != nil {
		t.Fatal(err)
	}
	const created, started, stopped, deleted = 0, 1, 2, 3
	for i, want := range []struct {
		id         string
		kind       cri.ContainerEventType
		containers int
	}{
		{string(p.ID), created, 0},
		{string(p.ID), started, 0},
		{string(c.ID), created, 1},
		{string(c.ID), started, 1},
		{string(c.ID), stopped, 1},
		{string(c.ID), deleted, 0},
	} {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId != want.id || e.ContainerEventType != want.kind || len(e.ContainersStatuses) != want.containers ||
			e.PodSandboxStatus.GetId() != string(p.ID) || e.CreatedAt == 0 {
			t.Errorf("event %d: %v", i, e)
		}
	}
}

func TestStatus(t *testing.T) {
	full := errors.New("no space left")
	n := newNode(t, func(o *server.Options) {
		o.Config = map[string]any{"root": "/x"}
		o.SystemdCgroup = true
		o.Features = server.Features{SupplementalGroupsPolicy: true, MountOptions: true}
		o.Checks = []server.Check{
			{Reason: "Fine", Run: func(context.Context) error { return nil }},
			{Reason: "DiskFull", Run: func(context.Context) error { return full }},
		}
	})
	n.server.Open()
	r, err := n.Status(t.Context(), &cri.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []*cri.RuntimeCondition{
		{Type: "RuntimeReady", Reason: "DiskFull", Message: "no space left"},
		{Type: "NetworkReady", Reason: "NetworkPluginNotReady", Message: r.Status.Conditions[1].Message},
	}
	for i := range want {
		if !proto.Equal(r.Status.Conditions[i], want[i]) {
			t.Errorf("got %v, want %v", r.Status.Conditions[i], want[i])
		}
	}
	if len(r.RuntimeHandlers) != 2 || r.RuntimeHandlers[0].Name != "" || !r.RuntimeHandlers[1].Features.RecursiveReadOnlyMounts {
		t.Errorf("handlers %v", r.RuntimeHandlers)
	}
	if !r.Features.SupplementalGroupsPolicy || r.Features.UserNamespacesHostNetwork || !r.Features.MountOptions {
		t.Errorf("features %v", r.Features)
	}
	for _, key := range []string{"config", "golang", "versions"} {
		if !json.Valid([]byte(r.Info[key])) {
			t.Errorf("info %s is no JSON: %q", key, r.Info[key])
		}
	}
	v, err := n.Version(t.Context(), &cri.VersionRequest{})
	if err != nil || v.RuntimeName != "cri-shim" || v.RuntimeApiVersion != "v1" || v.RuntimeVersion != "1.2.3" || v.Version == "" {
		t.Errorf("version %v, %v", v, err)
	}
	if c, err := n.RuntimeConfig(t.Context(), &cri.RuntimeConfigRequest{}); err != nil || c.Linux.CgroupDriver != cri.CgroupDriver_SYSTEMD {
		t.Errorf("runtime config %v, %v", c, err)
	}
	if _, err := n.UpdateRuntimeConfig(t.Context(), cidrRequest("10.9.0.0/24")); err != nil {
		t.Error(err)
	}
	if r, err := n.Status(t.Context(), &cri.StatusRequest{Verbose: true}); err != nil || !strings.Contains(r.Info["podCIDRs"], "10.9.0.0/24") {
		t.Errorf("after an update: %v, %v", r.GetInfo(), err)
	}
}
