// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/server"
	"github.com/cri-shim/cri-shim/pkg/state"
)

var born = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func testPod(name string) state.Pod {
	return state.Pod{
		ID: state.PodID(state.NewID()), Handler: "runc", CreatedAt: born, IPs: []string{"10.0.0.7", "fd00::7", "fd00::8"},
		Config: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: name + state.NewID()[:8], Namespace: "ns", Uid: "uid"},
			Labels:   map[string]string{"app": name}, Annotations: map[string]string{"a": "1"},
			Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
		},
	}
}

func (n *node) addPod(t testing.TB, p state.Pod) state.Pod {
	t.Helper()
	p, _, err := n.store.BeginPod(p)
	if err != nil {
		t.Fatal(err)
	}
	p, err = n.store.MovePod(p.ID, state.PodUp, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func testContainer(p state.Pod, name string) state.Container {
	return state.Container{
		ID: state.ContainerID(state.NewID()), Pod: p.ID, CreatedAt: born, ImageID: "sha256:abc", ImageName: "docker.io/library/web:1",
		LogPath: "/var/log/web", StopSignal: int32(cri.Signal_SIGNAL_SIGQUIT),
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name, Attempt: 2}, Labels: map[string]string{"part": name}, Annotations: map[string]string{"b": "2"},
			Image: &cri.ImageSpec{Image: "sha256:abc", UserSpecifiedImage: "web:1"},
		},
		User:      &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: 5, SupplementalGroups: []int64{6}}},
		Resources: &cri.ContainerResources{Linux: &cri.LinuxContainerResources{CpuShares: 9}},
		Mounts:    []*cri.Mount{{ContainerPath: "/i", Image: &cri.ImageSpec{Image: "vol", ImageRef: "sha256:def"}}},
	}
}

// addContainer takes a container through events.
func (n *node) addContainer(t testing.TB, c state.Container, events ...state.Event) state.Container {
	t.Helper()
	c, _, err := n.store.BeginContainer(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		c, err = n.store.MoveContainer(c.ID, e, func(c *state.Container) {
			switch e {
			case state.Run:
				c.StartedAt = born.Add(time.Second)
			case state.Exit:
				c.FinishedAt = born.Add(time.Minute)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func openNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.server.Open()
	return n
}

func TestPodSandboxStatus(t *testing.T) {
	n := openNode(t)
	p := n.addPod(t, testPod("web"))
	n.addContainer(t, testContainer(p, "a"), state.Prepared)
	r, err := n.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: string(p.ID)[:12]})
	if err != nil {
		t.Fatal(err)
	}
	want := &cri.PodSandboxStatus{
		Id: string(p.ID), Metadata: p.Config.Metadata, State: cri.PodSandboxState_SANDBOX_READY, CreatedAt: born.UnixNano(),
		Network: &cri.PodSandboxNetworkStatus{Ip: "10.0.0.7", AdditionalIps: []*cri.PodIP{{Ip: "fd00::7"}, {Ip: "fd00::8"}}},
		Linux:   &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
		Labels:  p.Config.Labels, Annotations: p.Config.Annotations, RuntimeHandler: "runc",
	}
	if !proto.Equal(r.Status, want) {
		t.Errorf("got  %v\nwant %v", r.Status, want)
	}
	if len(r.ContainersStatuses) != 0 || r.Timestamp != 0 || r.Info != nil {
		t.Errorf("containers %v, timestamp %d, info %v", r.ContainersStatuses, r.Timestamp, r.Info)
	}
	if _, err := n.store.MovePod(p.ID, state.PodDown, nil); err != nil {
		t.Fatal(err)
	}
	if r, err := n.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: string(p.ID)}); err != nil || r.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("stopped: %v, %v", r, err)
	}
}

func TestContainerStatus(t *testing.T) {
	n := openNode(t)
	p := n.addPod(t, testPod("web"))
	all := []state.Event{state.Prepared, state.Launch, state.Run, state.Exit}
	for i, tt := range []struct {
		events []state.Event
		change func(*state.Container)
		state  cri.ContainerState
		reason string
	}{
		{all[:1], nil, cri.ContainerState_CONTAINER_CREATED, ""},
		{all[:2], nil, cri.ContainerState_CONTAINER_CREATED, ""},
		{all[:3], nil, cri.ContainerState_CONTAINER_RUNNING, ""},
		{all, func(c *state.Container) { c.Reason = "Completed" }, cri.ContainerState_CONTAINER_EXITED, "Completed"},
		{all, func(c *state.Container) { c.ExitCode, c.Reason = 2, "Error" }, cri.ContainerState_CONTAINER_EXITED, "Error"},
		{all, func(c *state.Container) { c.ExitCode, c.Reason = 137, "OOMKilled" }, cri.ContainerState_CONTAINER_EXITED, "OOMKilled"},
		{[]state.Event{state.Prepared, state.Launch, state.Exit}, func(c *state.Container) {
			c.ExitCode, c.Reason, c.Message = 128, "StartError", "no such file"
		}, cri.ContainerState_CONTAINER_EXITED, "StartError"},
	} {
		c := testContainer(p, fmt.Sprint("c", i))
		if tt.change != nil {
			tt.change(&c)
		}
		c = n.addContainer(t, c, tt.events...)
		r, err := n.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: string(c.ID)})
		if err != nil {
			t.Fatal(err)
		}
		want := &cri.ContainerStatus{
			Id: string(c.ID), Metadata: c.Config.Metadata, State: tt.state, CreatedAt: born.UnixNano(),
			ExitCode: c.ExitCode, Reason: tt.reason, Message: c.Message,
			Image: &cri.ImageSpec{Image: "docker.io/library/web:1", UserSpecifiedImage: "web:1"}, ImageId: "sha256:abc", ImageRef: "sha256:abc",
			Labels: c.Config.Labels, Annotations: c.Config.Annotations, Mounts: c.Mounts, LogPath: "/var/log/web",
			Resources: c.Resources, User: c.User, StopSignal: cri.Signal_SIGNAL_SIGQUIT,
		}
		if slices.Contains(tt.events, state.Run) {
			want.StartedAt = born.Add(time.Second).UnixNano()
		}
		if slices.Contains(tt.events, state.Exit) {
			want.FinishedAt = born.Add(time.Minute).UnixNano()
		}
		if !proto.Equal(r.Status, want) {
			t.Errorf("%d: got  %v\nwant %v", i, r.Status, want)
		}
	}
}

func TestListFilters(t *testing.T) {
	n := openNode(t)
	one, two := n.addPod(t, testPod("one")), n.addPod(t, testPod("two"))
	if _, _, err := n.store.BeginPod(testPod("unborn")); err != nil {
		t.Fatal(err)
	}
	created := n.addContainer(t, testContainer(one, "created"), state.Prepared)
	running := n.addContainer(t, testContainer(one, "running"), state.Prepared, state.Launch, state.Run)
	exited := n.addContainer(t, testContainer(two, "exited"), state.Prepared, state.Launch, state.Run, state.Exit)
	n.addContainer(t, testContainer(two, "removed"), state.Prepared, state.Remove)
	if _, err := n.store.MovePod(two.ID, state.PodDown, nil); err != nil {
		t.Fatal(err)
	}

	ready := &cri.PodSandboxStateValue{}
	for _, tt := range []struct {
		name string
		f    *cri.PodSandboxFilter
		want []state.PodID
	}{
		{"all", nil, []state.PodID{one.ID, two.ID}},
		{"id", &cri.PodSandboxFilter{Id: string(two.ID)}, []state.PodID{two.ID}},
		{"start of id", &cri.PodSandboxFilter{Id: string(one.ID)[:20]}, []state.PodID{one.ID}},
		{"unknown id", &cri.PodSandboxFilter{Id: "x"}, nil},
		{"state", &cri.PodSandboxFilter{State: ready}, []state.PodID{one.ID}},
		{"label", &cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "two"}}, []state.PodID{two.ID}},
		{"empty label", &cri.PodSandboxFilter{LabelSelector: map[string]string{"nope": ""}}, nil},
		{"both", &cri.PodSandboxFilter{State: ready, LabelSelector: map[string]string{"app": "two"}}, nil},
	} {
		r, err := n.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: tt.f})
		if err != nil {
			t.Fatal(err)
		}
		var got []state.PodID
		for _, p := range r.Items {
			got = append(got, state.PodID(p.Id))
		}
		same(t, "pods: "+tt.name, got, tt.want)
	}
	value := func(s cri.ContainerState) *cri.ContainerStateValue { return &cri.ContainerStateValue{State: s} }
	for _, tt := range []struct {
		name string
		f    *cri.ContainerFilter
		want []state.ContainerID
	}{
		{"all", nil, []state.ContainerID{created.ID, running.ID, exited.ID}},
		{"pod", &cri.ContainerFilter{PodSandboxId: string(one.ID)[:10]}, []state.ContainerID{created.ID, running.ID}},
		{"created", &cri.ContainerFilter{State: value(cri.ContainerState_CONTAINER_CREATED)}, []state.ContainerID{created.ID}},
		{"exited", &cri.ContainerFilter{State: value(cri.ContainerState_CONTAINER_EXITED)}, []state.ContainerID{exited.ID}},
		{"label", &cri.ContainerFilter{LabelSelector: map[string]string{"part": "running"}}, []state.ContainerID{running.ID}},
		{"id in another pod", &cri.ContainerFilter{Id: string(exited.ID), PodSandboxId: string(one.ID)}, nil},
	} {
		r, err := n.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: tt.f})
		if err != nil {
			t.Fatal(err)
		}
		var got []state.ContainerID
		for _, c := range r.Containers {
			got = append(got, state.ContainerID(c.Id))
		}
		same(t, "containers: "+tt.name, got, tt.want)
	}
}

// same compares without order: equal creation times leave it to the ids.
func same[E ~string](t *testing.T, name string, got, want []E) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", name, got, want)
	}
}

func TestUnknownObjects(t *testing.T) {
	n := openNode(t)
	p := n.addPod(t, testPod("p"))
	created := n.addContainer(t, testContainer(p, "c"), state.Prepared)
	id := string(created.ID)
	ctx := t.Context()
	drop := func(_ any, err error) error { return err }
	for _, tt := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"StopPodSandbox", drop(n.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: "gone"})), codes.OK},
		{"RemovePodSandbox", drop(n.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: "gone"})), codes.OK},
		{"StopContainer", drop(n.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: "gone"})), codes.OK},
		{"RemoveContainer", drop(n.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: "gone"})), codes.OK},
		{"RemoveImage", drop(n.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "gone"}})), codes.OK},
		{"ImageStatus", drop(n.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "gone"}})), codes.OK},
		{"ListImages", drop(n.ListImages(ctx, &cri.ListImagesRequest{Filter: &cri.ImageFilter{Image: &cri.ImageSpec{Image: "gone"}}})), codes.OK},
		{"PodSandboxStatus", drop(n.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: "gone"})), codes.NotFound},
		{"ContainerStatus", drop(n.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: "gone"})), codes.NotFound},
		{"ContainerStats", drop(n.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: "gone"})), codes.NotFound},
		{"StartContainer", drop(n.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: "gone"})), codes.NotFound},
		{"StopPodSandbox without id", drop(n.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{})), codes.InvalidArgument},
		{"ImageStatus without image", drop(n.ImageStatus(ctx, &cri.ImageStatusRequest{})), codes.InvalidArgument},
		{"unknown handler", drop(n.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "x", RuntimeHandler: "kata"}})), codes.InvalidArgument},
		{"ExecSync in a created one", drop(n.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"x"}})), codes.FailedPrecondition},
		{"Exec in a created one", drop(n.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{"x"}, Stdout: true})), codes.FailedPrecondition},
		{"Attach to a created one", drop(n.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdout: true})), codes.FailedPrecondition},
		{"ReopenContainerLog of a created one", drop(n.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})), codes.FailedPrecondition},
	} {
		if status.Code(tt.err) != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, tt.err, tt.want)
		}
	}
}

func TestStreamingURLs(t *testing.T) {
	n := openNode(t)
	p := n.addPod(t, testPod("p"))
	c := n.addContainer(t, testContainer(p, "c"), state.Prepared, state.Launch, state.Run)
	exec, err := n.Exec(t.Context(), &cri.ExecRequest{ContainerId: string(c.ID), Cmd: []string{"x"}, Stdout: true})
	if err != nil || !strings.Contains(exec.GetUrl(), "http://127.0.0.1:") || !strings.Contains(exec.GetUrl(), "/exec/") {
		t.Errorf("exec: %v, %v", exec, err)
	}
	if r, err := n.Attach(t.Context(), &cri.AttachRequest{ContainerId: string(c.ID), Stdout: true}); err != nil || r.Url == "" {
		t.Errorf("attach: %v, %v", r, err)
	}
	if _, err := n.Attach(t.Context(), &cri.AttachRequest{ContainerId: string(c.ID), Stdout: true, Tty: true}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("attach with a terminal the container has not: %v", err)
	}
	if r, err := n.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: string(p.ID)}); err != nil || r.Url == "" {
		t.Errorf("port-forward: %v, %v", r, err)
	}
	if _, err := n.store.MovePod(p.ID, state.PodDown, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: string(p.ID)}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("port-forward to a stopped pod: %v", err)
	}
}

func TestImageItem(t *testing.T) {
	for _, tt := range []struct {
		user, name string
		uid        int64 // -1 for none
	}{
		{"", "", -1}, {"1002", "", 1002}, {"www-data", "www-data", -1}, {"1003:1004", "", 1003}, {"www-data:1004", "www-data", -1}, {"0", "", 0},
	} {
		i := server.ImageItem(image.Image{ID: "sha256:1", User: tt.user})
		uid := int64(-1)
		if i.Uid != nil {
			uid = i.Uid.Value
		}
		if uid != tt.uid || i.Username != tt.name || i.Size == 0 {
			t.Errorf("user %q: uid %d, name %q, size %d", tt.user, uid, i.Username, i.Size)
		}
	}
}

func TestDigestedName(t *testing.T) {
	two := []string{"docker.io/library/web@sha256:1", "quay.io/x/web@sha256:2"}
	for _, tt := range []struct {
		name    string
		digests []string
		want    string
	}{
		{"docker.io/library/web:1", two, two[0]},
		{"quay.io/x/web:latest", two, two[1]},
		{"quay.io/x/web@sha256:2", two, two[1]},
		{"quay.io/x/web", two, two[1]},
		{"quay.io/x/website:1", two, two[0]},
		{"sha256:3", two, two[0]},
		{"preloaded:1", nil, "sha256:3"},
	} {
		if got := server.DigestedName(tt.name, tt.digests, "sha256:3"); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestChunks(t *testing.T) {
	item := func(size int) *cri.Image { return &cri.Image{Id: strings.Repeat("x", size)} }
	for _, tt := range []struct {
		name  string
		items []*cri.Image
		want  []int
	}{
		{"none", nil, nil},
		{"one", []*cri.Image{item(1)}, []int{1}},
		{"small", []*cri.Image{item(1), item(1), item(1)}, []int{3}},
		{"large", []*cri.Image{item(2 * server.ChunkSize), item(1), item(server.ChunkSize)}, []int{1, 1, 1}},
		{"mixed", []*cri.Image{item(server.ChunkSize / 2), item(server.ChunkSize / 3), item(server.ChunkSize / 3)}, []int{2, 1}},
	} {
		var got []int
		if err := server.Chunks(tt.items, func(some []*cri.Image) error { got = append(got, len(some)); return nil }); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
	if err := server.Chunks([]*cri.Image{item(1)}, func([]*cri.Image) error { return io.EOF }); err != io.EOF {
		t.Errorf("an error of the client is lost: %v", err)
	}
}
