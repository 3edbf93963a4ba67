// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// collect reads a Stream call to its end: the items of all its messages.
func collect[M any, T proto.Message](s grpc.ServerStreamingClient[M], err error, items func(*M) []T) ([]T, error) {
	var all []T
	for err == nil {
		var m *M
		if m, err = s.Recv(); err == nil {
			all = append(all, items(m)...)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, err
}

// sameItems checks that a Stream call gave what the List call gave: the same
// items, each once, in the same order. volatile empties what differs between
// two readings.
func sameItems[T proto.Message](t *testing.T, name string, unary, streamed []T, volatile func(T)) {
	t.Helper()
	if len(unary) != len(streamed) || len(unary) == 0 {
		t.Errorf("%s: %d items listed, %d streamed", name, len(unary), len(streamed))
		return
	}
	for i := range unary {
		volatile(unary[i])
		volatile(streamed[i])
		if !proto.Equal(unary[i], streamed[i]) {
			t.Errorf("%s: item %d is listed as\n%v\nand streamed as\n%v", name, i, unary[i], streamed[i])
			return
		}
	}
}

// kubeletLabels are what kubelets put on each container; about a kilobyte of it
// is what is in a record of a real node.
func kubeletLabels(c *state.Container, pod string) {
	c.Config.Labels = map[string]string{
		"io.kubernetes.container.name": c.Config.Metadata.Name, "io.kubernetes.pod.name": pod,
		"io.kubernetes.pod.namespace": "some-namespace-of-a-team", "io.kubernetes.pod.uid": "6f1c0a52-6f3c-4a57-9d6b-0a4b8e1e2f00",
	}
	c.Config.Annotations = map[string]string{
		"io.kubernetes.container.hash": "5f3c1a2b", "io.kubernetes.container.restartCount": "0",
		"io.kubernetes.container.terminationMessagePath": "/dev/termination-log", "io.kubernetes.container.terminationMessagePolicy": "File",
		"io.kubernetes.pod.terminationGracePeriod": "30", "io.kubernetes.container.ports": strings.Repeat(`{"name":"http","containerPort":8080,"protocol":"TCP"}`, 24),
	}
}

// manyRecords writes the records of pods with each so many running containers:
// those of one container, over and over. It returns the root directory, the
// last pod's id and all containers' ids.
func manyRecords(t testing.TB, pods, each int) (dir, last string, ids map[string]bool) {
	t.Helper()
	from := state.Layout{Root: t.TempDir()}
	store, err := state.Open(from, "boot", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{store: store}
	p := n.addPod(t, testPod("p"))
	c := testContainer(p, "NAME")
	kubeletLabels(&c, "POD")
	c = n.addContainer(t, c, state.Prepared, state.Launch, state.Run)
	read := func(kind, id string) string {
		data, err := os.ReadFile(filepath.Join(from.Root, "records", kind, id+".json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	pod, container := read("pods", string(p.ID)), read("containers", string(c.ID))
	dir, ids = t.TempDir(), map[string]bool{}
	write := func(kind, id, text string) {
		if err := os.WriteFile(filepath.Join(dir, "records", kind, id+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"pods", "containers"} {
		if err := os.MkdirAll(filepath.Join(dir, "records", kind), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range pods {
		last = state.NewID()
		write("pods", last, strings.NewReplacer(string(p.ID), last, p.Config.Metadata.Name, fmt.Sprint("pod-", i)).Replace(pod))
		for j := range each {
			id := state.NewID()
			write("containers", id, strings.NewReplacer(string(c.ID), id, string(p.ID), last, "NAME", fmt.Sprint("container-", j), "POD", fmt.Sprint("pod-", i)).Replace(container))
			ids[id] = true
		}
	}
	return dir, last, ids
}

// 10,000 containers in 100 pods: the Stream calls give them all, once; the List
// calls say that they are too many and what to call instead. Filters still work.
func TestTenThousandContainers(t *testing.T) {
	inMemory(t)
	const pods, each = 100, 100
	dir, last, want := manyRecords(t, pods, each)
	n := newNodeIn(t, dir)
	n.server.Open()
	ctx := t.Context()
	began := time.Now()
	_, err := n.ListContainers(ctx, &cri.ListContainersRequest{})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "Stream form") {
		t.Errorf("ListContainers: %v", err)
	}
	listed := time.Since(began)
	began = time.Now()
	s, err := n.StreamContainers(ctx, &cri.StreamContainersRequest{})
	containers, err := collect(s, err, (*cri.StreamContainersResponse).GetContainers)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("10,000 containers: refused as a list in %s, streamed in %s", listed, time.Since(began))
	if len(containers) != len(want) {
		t.Errorf("%d containers streamed, want %d", len(containers), len(want))
	}
	for _, c := range containers {
		if !want[c.Id] {
			t.Fatalf("container %s is streamed twice or unknown", c.Id)
		}
		delete(want, c.Id)
	}
	one, err := n.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: last}})
	if err != nil || len(one.Containers) != each {
		t.Errorf("list of one pod: %d containers, %v", len(one.GetContainers()), err)
	}
	stats, err := n.StreamContainerStats(ctx, &cri.StreamContainerStatsRequest{})
	if all, err := collect(stats, err, (*cri.StreamContainerStatsResponse).GetContainerStats); err != nil || len(all) != pods*each {
		t.Errorf("%d containers' stats streamed, %v", len(all), err)
	}
	ps, err := n.StreamPodSandboxStats(ctx, &cri.StreamPodSandboxStatsRequest{})
	if all, err := collect(ps, err, (*cri.StreamPodSandboxStatsResponse).GetPodSandboxStats); err != nil || len(all) != pods || len(all[0].Linux.Containers) != each {
		t.Errorf("%d pods' stats streamed, %v", len(all), err)
	}
	if _, err := n.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{}); err != nil && (status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "Stream form")) {
		t.Errorf("ListPodSandboxStats: %v", err)
	}
}

// Each of the five Stream calls of RuntimeService gives what its List call gives.
func TestStreamsEqualLists(t *testing.T) {
	n := openNode(t)
	for i := range 7 {
		p := n.addPod(t, testPod(fmt.Sprint("pod", i)))
		for j := range 3 {
			n.addContainer(t, testContainer(p, fmt.Sprint("c", j)), state.Prepared, state.Launch, state.Run)
		}
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pods, err := n.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	must(err)
	s1, err := n.StreamPodSandboxes(ctx, &cri.StreamPodSandboxesRequest{})
	pods2, err := collect(s1, err, (*cri.StreamPodSandboxesResponse).GetPodSandboxes)
	must(err)
	sameItems(t, "pods", pods.Items, pods2, func(*cri.PodSandbox) {})

	containers, err := n.ListContainers(ctx, &cri.ListContainersRequest{})
	must(err)
	s2, err := n.StreamContainers(ctx, &cri.StreamContainersRequest{})
	containers2, err := collect(s2, err, (*cri.StreamContainersResponse).GetContainers)
	must(err)
	sameItems(t, "containers", containers.Containers, containers2, func(*cri.Container) {})

	stats, err := n.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	must(err)
	s3, err := n.StreamContainerStats(ctx, &cri.StreamContainerStatsRequest{})
	stats2, err := collect(s3, err, (*cri.StreamContainerStatsResponse).GetContainerStats)
	must(err)
	sameItems(t, "container stats", stats.Stats, stats2, func(s *cri.ContainerStats) { s.WritableLayer = nil })

	podStats, err := n.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
	must(err)
	s4, err := n.StreamPodSandboxStats(ctx, &cri.StreamPodSandboxStatsRequest{})
	podStats2, err := collect(s4, err, (*cri.StreamPodSandboxStatsResponse).GetPodSandboxStats)
	must(err)
	sameItems(t, "pod stats", podStats.Stats, podStats2, func(s *cri.PodSandboxStats) { s.Linux = nil })

	metrics, err := n.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{})
	must(err)
	s5, err := n.StreamPodSandboxMetrics(ctx, &cri.StreamPodSandboxMetricsRequest{})
	metrics2, err := collect(s5, err, (*cri.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics)
	must(err)
	sameItems(t, "metrics", metrics.PodMetrics, metrics2, func(*cri.PodSandboxMetrics) {})
}

// garbage is a codec whose messages are bytes that are no protobuf.
type garbage struct{}

func (garbage) Marshal(any) ([]byte, error) { return []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0x01}, nil }
func (garbage) Unmarshal([]byte, any) error { return nil }
func (garbage) Name() string                { return "proto" }

var _ encoding.Codec = garbage{}

// Requests that are no messages at all get an error, whatever the method, and
// the server goes on.
func TestMalformedRequests(t *testing.T) {
	n := openNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for method, desc := range methods() {
		var err error
		if !desc.ServerStreams {
			err = n.conn.Invoke(ctx, method, struct{}{}, &struct{}{}, grpc.ForceCodec(garbage{}))
		} else {
			var s grpc.ClientStream
			if s, err = n.conn.NewStream(ctx, &desc, method, grpc.ForceCodec(garbage{})); err == nil {
				if err = errors.Join(s.SendMsg(struct{}{}), s.CloseSend()); err == nil {
					err = s.RecvMsg(&struct{}{})
				}
			}
		}
		if c := status.Code(err); c != codes.Internal && c != codes.InvalidArgument {
			t.Errorf("%s: %v", method, err)
		}
	}
	if _, err := n.Version(ctx, &cri.VersionRequest{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	for _, noise := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", strings.Repeat("\x00", 1<<16), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		c, err := n.listen.DialContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, noise)
		if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, net.ErrClosed) {
			t.Errorf("noise on the socket: %v", err)
		}
		c.Close()
	}
	if _, err := n.Version(ctx, &cri.VersionRequest{}); err != nil {
		t.Errorf("after noise on the socket: %v", err)
	}
}

// An image named for a handler that is not there is refused, wherever it is named.
func TestUnknownHandlerOfAnImage(t *testing.T) {
	n := openNode(t)
	p := n.addPod(t, testPod("p"))
	kata := &cri.ImageSpec{Image: "web", RuntimeHandler: "kata"}
	for name, c := range map[string]*cri.ContainerConfig{
		"own":    {Metadata: &cri.ContainerMetadata{Name: "c"}, Image: kata},
		"volume": {Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: "web"}, Mounts: []*cri.Mount{{ContainerPath: "/v", Image: kata, Readonly: true}}},
	} {
		_, err := n.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: string(p.ID), Config: c})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"kata"`) {
			t.Errorf("%s image: %v", name, err)
		}
	}
}

// A kubelet lists all containers each second: 600 are a crowded node.
func BenchmarkListContainers(b *testing.B) {
	dir, _, _ := manyRecords(b, 100, 6)
	n := newNodeIn(b, dir)
	n.server.Open()
	for b.Loop() {
		if _, err := n.ListContainers(b.Context(), &cri.ListContainersRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}
