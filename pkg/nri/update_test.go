// SPDX-License-Identifier: Apache-2.0

package nri_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/ttrpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/nri"
)

func wish(id string, shares uint64) *api.ContainerUpdate {
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxCPUShares(shares)
	return u
}

func (r *runtime) asked(t *testing.T) []nri.Update {
	t.Helper()
	select {
	case u := <-r.updates:
		return u
	case <-time.After(patience):
		t.Fatal("no update reached the runtime")
		return nil
	}
}

func check(t *testing.T, got []nri.Update, id string, shares int64) {
	t.Helper()
	if len(got) != 1 || got[0].ContainerID != id || got[0].Resources().GetCpuShares() != shares {
		t.Errorf("updates %+v, want %d shares for %s", got, shares, id)
	}
}

func TestRepliedUpdates(t *testing.T) {
	r := start(t, nil)
	r.connect(t, &plugin{
		onCreate: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
			return nil, []*api.ContainerUpdate{wish("other", 10)}
		},
		onUpdate: func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate {
			return []*api.ContainerUpdate{wish("other", 20)}
		},
		onStop: func(*api.Container) []*api.ContainerUpdate { return []*api.ContainerUpdate{wish("other", 30)} },
	})
	ctx, pod, c := t.Context(), testPod(), testContainer()
	updates, err := r.CreateContainer(ctx, pod, c, testSpec(), func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	check(t, updates, "other", 10)
	asked := &cri.LinuxContainerResources{CpuQuota: 7000}
	next, updates, err := r.UpdateContainer(ctx, pod, c, asked)
	if err != nil {
		t.Fatal(err)
	}
	check(t, updates, "other", 20)
	if next != asked {
		t.Errorf("an update that no plugin changed became %v", next)
	}
	if err := r.StartContainer(ctx, pod, c); err != nil {
		t.Fatal(err)
	}
	check(t, r.StopContainer(ctx, pod, c), "other", 30)
}

// TestChangedUpdate: what CRI can say is in the resources, the rest in an update of its own.
func TestChangedUpdate(t *testing.T) {
	r := start(t, nil)
	r.connect(t, &plugin{onUpdate: func(c *api.Container, asked *api.LinuxResources) []*api.ContainerUpdate {
		u := wish(c.GetId(), 2*asked.GetCpu().GetShares().GetValue())
		u.SetLinuxMemoryReservation(1 << 20)
		u.AddLinuxHugepageLimit("2MB", 4<<20)
		return []*api.ContainerUpdate{u}
	}})
	asked := &cri.LinuxContainerResources{
		CpuShares: 100, CpuQuota: 7000, OomScoreAdj: 9,
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 2 << 20}, {PageSize: "1GB", Limit: 0}},
	}
	next, rest, err := r.UpdateContainer(t.Context(), testPod(), testContainer(), asked)
	if err != nil {
		t.Fatal(err)
	}
	if next.GetCpuShares() != 200 || next.GetCpuQuota() != 7000 || next.GetOomScoreAdj() != 9 || len(next.GetHugepageLimits()) != 2 ||
		next.GetHugepageLimits()[0].GetLimit() != 4<<20 {
		t.Errorf("resources %v", next)
	}
	if asked.CpuShares != 100 || len(asked.HugepageLimits) != 2 {
		t.Errorf("the caller's resources became %v", asked)
	}
	if len(rest) != 1 || rest[0].ContainerID != "ctr-1" {
		t.Fatalf("rest %+v", rest)
	}
	spec := testSpec()
	if err := r.Apply(spec, rest[0]); err != nil {
		t.Fatal(err)
	}
	if m := spec.Linux.Resources.Memory; *m.Reservation != 1<<20 || *m.Limit != 1<<20 || spec.Linux.Resources.CPU != nil {
		t.Errorf("applied %+v", spec.Linux.Resources)
	}
}

func TestUnsolicitedUpdates(t *testing.T) {
	r := start(t, nil)
	r.onUpdate = func(all []nri.Update) ([]nri.Update, error) { return all[1:], nil }
	s := r.connect(t, &plugin{})
	u := wish("one", 40)
	u.SetLinuxPidLimits(50)
	failed, err := s.UpdateContainers([]*api.ContainerUpdate{u, wish("two", 60)})
	if err != nil || len(failed) != 1 || failed[0].GetContainerId() != "two" || failed[0].GetLinux().GetResources().GetCpu().GetShares().GetValue() != 60 {
		t.Errorf("failed %v, error %v", failed, err)
	}
	got := r.asked(t)
	check(t, got[:1], "one", 40)
	spec := testSpec()
	if err := r.Apply(spec, got[0]); err != nil {
		t.Fatal(err)
	}
	if *spec.Linux.Resources.CPU.Shares != 40 || *spec.Linux.Resources.Pids.Limit != 50 || *spec.Linux.Resources.Memory.Limit != 1<<20 {
		t.Errorf("applied %+v", spec.Linux.Resources)
	}
	r.onUpdate = func([]nri.Update) ([]nri.Update, error) { return nil, errors.New("no room") }
	if _, err := s.UpdateContainers([]*api.ContainerUpdate{wish("one", 1)}); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error %v", err)
	}
	if _, err := s.UpdateContainers(nil); err != nil {
		t.Errorf("error %v", err)
	}
}

// TestUpdatesOfASynchronisation are applied by Run, when operations are no longer held up.
func TestUpdatesOfASynchronisation(t *testing.T) {
	r := start(t, nil)
	r.connect(t, &plugin{onSync: func() []*api.ContainerUpdate { return []*api.ContainerUpdate{wish("one", 70)} }})
	check(t, r.asked(t), "one", 70)
}

func TestApplyRefuses(t *testing.T) {
	r := start(t, nil)
	if err := r.Apply(testSpec(), nri.Update{ContainerID: "x", Evict: true}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("eviction: %v", err)
	}
	if err := r.Apply(testSpec(), nri.NewUpdate("x", &cri.LinuxContainerResources{CpuPeriod: 1})); !errdefs.IsInvalidArgument(err) {
		t.Errorf("period of 1 µs: %v", err)
	}
}

// evictor speaks the protocol itself: the stub for plugins in Go cannot ask for evictions.
type evictor struct {
	api.PluginService
	synced chan struct{}
}

func (*evictor) Configure(context.Context, *api.ConfigureRequest) (*api.ConfigureResponse, error) {
	var events api.EventMask
	events.Set(api.Event_CREATE_CONTAINER, api.Event_UPDATE_CONTAINER)
	return &api.ConfigureResponse{Events: int32(events)}, nil
}

func (e *evictor) Synchronize(context.Context, *api.SynchronizeRequest) (*api.SynchronizeResponse, error) {
	close(e.synced)
	return &api.SynchronizeResponse{}, nil
}

func (*evictor) CreateContainer(context.Context, *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	return &api.CreateContainerResponse{Evict: []*api.ContainerEviction{{ContainerId: "old", Reason: "room"}}}, nil
}

func (*evictor) UpdateContainer(context.Context, *api.UpdateContainerRequest) (*api.UpdateContainerResponse, error) {
	return &api.UpdateContainerResponse{Evict: []*api.ContainerEviction{{ContainerId: "ctr-1", Reason: "itself"}}}, nil
}

func (r *runtime) connectRaw(t *testing.T, service api.PluginService) api.RuntimeService {
	t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := multiplex.Multiplex(conn)
	t.Cleanup(func() { mux.Close() })
	listener, err := mux.Listen(multiplex.PluginServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.RegisterPluginService(server, service)
	go server.Serve(context.WithoutCancel(t.Context()), listener)
	t.Cleanup(func() { server.Close() })
	out, err := mux.Open(multiplex.RuntimeServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	client := api.NewRuntimeClient(ttrpc.NewClient(out))
	if _, err := client.RegisterPlugin(t.Context(), &api.RegisterPluginRequest{PluginName: "raw", PluginIdx: "50"}); err != nil {
		t.Fatal(err)
	}
	return client
}

func TestEvictions(t *testing.T) {
	r, e := start(t, nil), &evictor{synced: make(chan struct{})}
	client := r.connectRaw(t, e)
	await(t, e.synced, "synchronisation")
	evicts := func(got []nri.Update, id, reason string) {
		t.Helper()
		if len(got) != 1 || !got[0].Evict || got[0].ContainerID != id || got[0].Reason != reason {
			t.Errorf("updates %+v, want the eviction of %s", got, id)
		}
	}
	updates, err := r.CreateContainer(t.Context(), testPod(), testContainer(), testSpec(), func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	evicts(updates, "old", "room")
	_, updates, err = r.UpdateContainer(t.Context(), testPod(), testContainer(), &cri.LinuxContainerResources{})
	if err != nil {
		t.Fatal(err)
	}
	evicts(updates, "ctr-1", "itself")
	_, err = client.UpdateContainers(t.Context(), &api.UpdateContainersRequest{
		Evict: []*api.ContainerEviction{{ContainerId: "loud", Reason: "noise"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	evicts(r.asked(t), "loud", "noise")
}
