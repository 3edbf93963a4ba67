// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/sandbox"
	"github.com/cri-shim/cri-shim/pkg/server"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stats"
	"github.com/cri-shim/cri-shim/pkg/stream"
	"github.com/cri-shim/cri-shim/test/await"
)

// node is a server on an empty node, without a monitor and with a runtime that
// runs nothing: enough for everything that is answered from memory.
type node struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	store   *state.Store
	layout  state.Layout
	server  *server.Server
	conn    *grpc.ClientConn
	listen  *bufconn.Listener
	log     *await.Output
	metrics *prometheus.Registry
	stop    func()
}

func newNode(t *testing.T, change ...func(*server.Options)) *node {
	t.Helper()
	return newNodeIn(t, t.TempDir(), change...)
}

// newNodeIn is a node whose root directory may hold records already.
func newNodeIn(t testing.TB, dir string, change ...func(*server.Options)) *node {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n := &node{log: &await.Output{}, metrics: prometheus.NewRegistry()}
	log := slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	layout := state.Layout{Root: dir, State: filepath.Join(dir, "run")}
	var err error
	n.layout = layout
	n.store, err = state.Open(layout, "boot", log)
	must(err)
	images, err := image.Open(t.Context(), image.Options{Root: layout.Images(), Log: log, InUse: rootfs.Chains(layout.Images())})
	must(err)
	t.Cleanup(func() { images.Close() })
	roots, err := rootfs.Open(images, layout.Images(), log)
	must(err)
	t.Cleanup(roots.Close)
	networks, err := network.New(network.Options{ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{dir}, CacheDir: layout.CNICache(), Log: log})
	must(err)
	ops := state.NewOps(t.Context())
	runtime, err := runc.New(runc.Options{
		Handlers: []runc.Handler{{Name: "runc", Path: "/bin/false", Root: filepath.Join(dir, "runtime")}},
		Default:  "runc", Bundles: layout.Bundles(), Locks: layout.RuntimeLocks(),
	})
	must(err)
	containers := container.New(container.Options{Store: n.store, Ops: ops, Layout: layout, Images: images, RootFS: roots, Runtime: runtime, Log: log})
	sandboxes := sandbox.New(sandbox.Options{Store: n.store, Ops: ops, Layout: layout, Containers: containers, Runtime: runtime, RootFS: roots, Network: networks, Log: log})
	streams, err := stream.New(t.Context(), stream.Options{Exec: containers.Exec, Attach: containers.Attach, NetNS: sandboxes.NetNSPath, Log: log})
	must(err)
	o := server.Options{
		Store: n.store, Sandboxes: sandboxes, Containers: containers, Images: images, RootFS: roots, Network: networks, Stream: streams,
		Stats: stats.New(stats.Options{Log: log}), Version: "1.2.3",
		Handlers: []server.Handler{{}, {Name: "runc", RecursiveReadOnly: true}}, Metrics: n.metrics, Log: log,
	}
	for _, c := range change {
		c(&o)
	}
	n.server, err = server.New(o)
	must(err)
	l := bufconn.Listen(1 << 20)
	n.listen = l
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- n.server.Serve(ctx, l) }()
	go func() { done <- streams.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(n.stop)
	n.conn, err = grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	must(err)
	t.Cleanup(func() { n.conn.Close() })
	n.RuntimeServiceClient, n.ImageServiceClient = cri.NewRuntimeServiceClient(n.conn), cri.NewImageServiceClient(n.conn)
	return n
}

// methods lists the RPCs of both services as full method names.
func methods() map[string]grpc.StreamDesc {
	out := map[string]grpc.StreamDesc{}
	for _, service := range []grpc.ServiceDesc{cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			out["/"+service.ServiceName+"/"+m.MethodName] = grpc.StreamDesc{}
		}
		for _, s := range service.Streams {
			out["/"+service.ServiceName+"/"+s.StreamName] = s
		}
	}
	return out
}

// call sends an empty request, which is on the wire the same for every method.
func (n *node) call(t *testing.T, method string, desc grpc.StreamDesc) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if !desc.ServerStreams {
		return n.conn.Invoke(ctx, method, &cri.VersionRequest{}, &cri.StopContainerResponse{})
	}
	s, err := n.conn.NewStream(ctx, &desc, method)
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(&cri.VersionRequest{}), s.CloseSend()); err != nil {
		return err
	}
	if err = s.RecvMsg(&cri.StopContainerResponse{}); err == io.EOF {
		return nil
	}
	return err
}

func TestEveryRPCIsImplemented(t *testing.T) {
	all := methods()
	if len(all) != 43 {
		t.Errorf("%d RPCs, the API has 43", len(all))
	}
	checkpoints := []string{"CheckpointContainer", "CheckpointPod", "RestorePod"}
	n := newNode(t)
	n.server.Open()
	for method, desc := range all {
		err := n.call(t, method, desc)
		name := method[strings.LastIndex(method, "/")+1:]
		switch code := status.Code(err); {
		case slices.Contains(checkpoints, name):
			if code != codes.Unimplemented || status.Convert(err).Message() != "method "+name+" not implemented" {
				t.Errorf("%s: %v", name, err)
			}
		case code == codes.Unimplemented, code == codes.Internal, code == codes.Unknown:
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGate(t *testing.T) {
	n := newNode(t)
	for method, desc := range methods() {
		err := n.call(t, method, desc)
		open := strings.HasSuffix(method, "/Version") || strings.HasSuffix(method, "/Status")
		if open && err != nil || !open && status.Code(err) != codes.Unavailable {
			t.Errorf("%s during recovery: %v", method, err)
		}
	}
	if s, err := n.Status(t.Context(), &cri.StatusRequest{}); err != nil || s.Status.Conditions[0].Status {
		t.Errorf("during recovery: %v, %v", s, err)
	}
	n.server.Open()
	if s, err := n.Status(t.Context(), &cri.StatusRequest{}); err != nil || !s.Status.Conditions[0].Status {
		t.Errorf("after it: %v, %v", s, err)
	}
}

func TestEventsEndWithTheServer(t *testing.T) {
	n := newNode(t)
	n.server.Open()
	events, err := n.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.stop()
	if _, err := events.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("client is told %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
}

func TestLogNamesButNeverTells(t *testing.T) {
	n := newNode(t)
	n.server.Open()
	const secret = "p4ssw0rd"
	n.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "Bad Name"}, Auth: &cri.AuthConfig{Password: secret, Auth: secret, IdentityToken: secret, RegistryToken: secret}})
	n.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: "abc", Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "web"}, Image: &cri.ImageSpec{Image: "img"}, Envs: []*cri.KeyValue{{Key: "TOKEN", Value: []byte(secret)}}, Args: []string{secret},
	}})
	n.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: "def", Cmd: []string{"login", secret}})
	n.ListContainers(t.Context(), &cri.ListContainersRequest{})
	log := n.log.String()
	if strings.Contains(log, secret) {
		t.Errorf("secret in the log:\n%s", log)
	}
	for _, want := range []string{"rpc=PullImage", `image="Bad Name"`, "code=InvalidArgument", "rpc=CreateContainer", "pod=abc", "container=web", "code=NotFound", "container=def", "dur=", "level=DEBUG msg=call rpc=ListContainers"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	n := newNode(t, func(o *server.Options) {
		o.Checks = []server.Check{{Reason: "Broken", Run: func(context.Context) error { panic("boom") }}}
	})
	n.server.Open()
	_, err := n.Status(t.Context(), &cri.StatusRequest{})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "boom") {
		t.Errorf("client is told %v", err)
	}
	if log := n.log.String(); !strings.Contains(log, "server_test.go") {
		t.Errorf("no stack in the log:\n%s", log)
	}
	if _, err := n.Version(t.Context(), &cri.VersionRequest{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	n := newNode(t)
	n.ListImages(t.Context(), &cri.ListImagesRequest{}) // refused: counted as what the client gets
	families, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if f.GetName() == "grpc_server_handled_total" && labels["grpc_method"] == "ListImages" && labels["grpc_code"] == "Unavailable" && m.GetCounter().GetValue() == 1 {
				return
			}
		}
	}
	t.Error("the call is not counted")
}

func TestMessageLimits(t *testing.T) {
	n := newNode(t)
	n.server.Open()
	huge := strings.Repeat("x", server.MaxMessage)
	_, err := n.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: huge})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("request above the limit: code %s", status.Code(err))
	}
	// 20 pods of 1 MiB each: more than a List can answer, no matter for a Stream.
	for range 20 {
		p := testPod("big")
		p.Config.Annotations = map[string]string{"big": huge[:1<<20]}
		n.addPod(t, p)
	}
	_, err = n.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "Stream") {
		t.Errorf("answer above the limit: %v", err)
	}
	pods, err := n.StreamPodSandboxes(t.Context(), &cri.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for {
		m, err := pods.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range m.PodSandboxes {
			seen[p.Id]++
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d pods streamed", len(seen))
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("pod %s streamed %d times", id, times)
		}
	}
}

func TestFit(t *testing.T) {
	for _, tt := range [][4]int{ // lengths in and out, limit 10
		{3, 3, 3, 3}, {10, 0, 10, 0}, {0, 12, 0, 10}, {20, 20, 5, 5}, {8, 4, 6, 4}, {4, 8, 4, 6},
	} {
		a, b := server.Fit(make([]byte, tt[0]), make([]byte, tt[1]), 10)
		if got := [4]int{tt[0], tt[1], len(a), len(b)}; !reflect.DeepEqual(got, tt) {
			t.Errorf("got %v, want %v", got, tt)
		}
	}
}
