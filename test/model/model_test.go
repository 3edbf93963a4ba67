// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/sandbox"
	"github.com/cri-shim/cri-shim/pkg/server"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/fakeruntime"
	"github.com/cri-shim/cri-shim/test/model"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestMain(m *testing.M) { os.Exit(fakeruntime.Main(m)) }

const (
	sequenceSteps = 12
	defaultRuns   = 500
	workers       = 4
)

// TestModel compares the services, on a node with a fake runtime, with the model.
// MODEL_RUNS is how many sequences; MODEL_SEED repeats one that failed.
func TestModel(t *testing.T) {
	fakeruntime.Require(t)
	runs, first := nodetest.Number("MODEL_RUNS", defaultRuns), uint64(time.Now().UnixNano())
	if seed := nodetest.Number("MODEL_SEED", 0); seed > 0 {
		runs, first = 1, seed
	}
	if testing.Short() {
		runs = min(runs, 40)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	next := uint64(0)
	for range min(workers, runs) {
		d := newDriver(t, nil)
		all.Go(func() {
			for {
				mu.Lock()
				seed := first + next
				next++
				mu.Unlock()
				if seed-first >= runs || t.Failed() {
					return
				}
				if f := sequence(d, seed); f != nil {
					t.Errorf("MODEL_SEED=%d go test -race -run TestModel ./test/model\n%s", seed, f)
				}
			}
		})
	}
	all.Wait()
}

// sequence checks the sequence of a seed, and shrinks it where it fails.
func sequence(d *model.Driver, seed uint64) *model.Failure {
	r := rand.New(rand.NewPCG(seed, 0))
	steps := model.Sequence(r, sequenceSteps, []model.Kind{
		model.End, model.KillProcess, model.KillPause, model.CrashAtStep, model.CrashAtStep, model.Crash, model.KillMonitor, model.FailRun, model.FailAdd, model.FailDel,
	})
	nth := 1 + r.IntN(40)
	d.Steps = func() int { return nth }
	f := model.Check(d, steps)
	if f == nil {
		return nil
	}
	return model.Shrink(d, f)
}

// node is a node with the services of one daemon after the other.
type node struct {
	*fakeruntime.Node
	t      *testing.T
	d      *fakeruntime.Daemon
	s      *sandbox.Service
	conn   *grpc.ClientConn
	change func(cri.RuntimeServiceClient) cri.RuntimeServiceClient // nil: none

	mu   sync.Mutex // guards what follows
	left int        // steps up to the one at which the daemon dies
	died bool
}

func newDriver(t *testing.T, change func(cri.RuntimeServiceClient) cri.RuntimeServiceClient) *model.Driver {
	t.Helper()
	n := &node{Node: fakeruntime.New(t), t: t, change: change}
	n.up()
	t.Cleanup(func() { n.conn.Close() })
	return &model.Driver{
		Node: n, Image: fakeruntime.Image, Command: []string{"/bin/sh", "-c", "trap 'exit 0' TERM; trap 'exit 7' USR1; sleep 1000 & wait"},
		Exec: []string{"/bin/sh", "-c", "exit 3"}, Change: func(*cri.PodSandboxConfig) {},
	}
}

// up starts the next daemon, which has recovered when it returns.
func (n *node) up() {
	n.t.Helper()
	d := n.Up()
	n.d = d
	containers := container.New(container.Options{
		Store: d.Store, Ops: d.Ops, Layout: d.Layout, Images: d.Images, RootFS: d.RootFS, Runtime: d.Runtime, Monitor: d.Monitor, Host: d.Host, Log: d.Log,
	})
	n.s = sandbox.New(sandbox.Options{
		Store: d.Store, Ops: d.Ops, Layout: d.Layout, Containers: containers, RootFS: d.RootFS, Network: d.Network, Runtime: d.Runtime,
		Monitor: d.Monitor, Host: d.Host, Pause: []byte(fakeruntime.Sleeper), Log: d.Log,
	})
	api, err := server.New(server.Options{
		Store: d.Store, Sandboxes: n.s, Containers: containers, Images: d.Images, RootFS: d.RootFS, Network: d.Network, Host: d.Host, Log: d.Log,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 20)
	d.Go(n.s.RunExits)
	d.Go(func(ctx context.Context) error { return api.Serve(ctx, listener) })
	ctx, cancel := context.WithTimeout(n.t.Context(), fakeruntime.Patience)
	defer cancel()
	if err := errors.Join(n.s.Recover(ctx), n.s.AwaitRecovered(ctx)); err != nil {
		n.t.Error(err)
	}
	api.Open()
	n.conn, err = grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) Client(model.Kind) cri.RuntimeServiceClient {
	c := cri.NewRuntimeServiceClient(n.conn)
	if n.change != nil {
		return n.change(c)
	}
	return c
}

func (n *node) Around(kind model.Kind) {
	if kind == model.KillMonitor {
		n.d.ReplaceMonitor()
		return
	}
	n.d.Crash()
	n.conn.Close()
	n.up()
}

func (n *node) CrashAtStep(nth int) {
	d := n.d
	n.left, n.died = nth, false
	d.AtSteps(func(_, step string, _ state.Moment) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.left--; n.left != 0 {
			return nil
		}
		d.Die()
		n.died = true
		return errors.New("died at " + step)
	})
}

func (n *node) Survived() bool {
	n.d.AtSteps(nil)
	n.mu.Lock()
	n.left = 0 // a step may be on its way still
	died := n.died
	n.mu.Unlock()
	if died {
		n.Heal()
		n.Around(model.Crash)
	}
	return !died
}

func (n *node) Fault(kind model.Kind) {
	n.Node.Fault(map[model.Kind]string{model.FailRun: "run", model.FailAdd: "ADD", model.FailDel: "DEL"}[kind], fakeruntime.Fail)
}

// Left is what is on the node that belongs to a pod or container.
func (n *node) Left() error {
	var found []string
	l := n.Layout
	for _, dir := range []string{
		filepath.Join(l.Records(), "pods"), filepath.Join(l.Records(), "containers"), l.Pods(), l.Containers(), l.Bundles(),
		l.RuntimeRoot("fake"), filepath.Join(l.CNICache(), "attachments"),
	} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), fakeruntime.Patience)
	defer cancel()
	watched, err := n.d.Monitor.List(ctx)
	for _, r := range watched {
		found = append(found, "watched by the monitor: "+r.ID)
	}
	if len(found) > 0 {
		err = errors.Join(err, fmt.Errorf("left: %s", strings.Join(found, ", ")))
	}
	return err
}

// faulty is a runtime with a fault of the kinds that the model is to find.
type faulty struct {
	cri.RuntimeServiceClient
	status func(*cri.ContainerStatusResponse, error) (*cri.ContainerStatusResponse, error)
	stop   func(context.Context, *cri.StopContainerRequest) (*cri.StopContainerResponse, error)
	list   func(*cri.ContainerFilter)
}

func (f *faulty) ContainerStatus(ctx context.Context, r *cri.ContainerStatusRequest, o ...grpc.CallOption) (*cri.ContainerStatusResponse, error) {
	resp, err := f.RuntimeServiceClient.ContainerStatus(ctx, r, o...)
	if f.status == nil {
		return resp, err
	}
	return f.status(resp, err)
}

func (f *faulty) StopContainer(ctx context.Context, r *cri.StopContainerRequest, o ...grpc.CallOption) (*cri.StopContainerResponse, error) {
	if f.stop == nil {
		return f.RuntimeServiceClient.StopContainer(ctx, r, o...)
	}
	return f.stop(ctx, r)
}

func (f *faulty) ListContainers(ctx context.Context, r *cri.ListContainersRequest, o ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	if f.list != nil && r.Filter != nil {
		f.list(r.Filter)
	}
	return f.RuntimeServiceClient.ListContainers(ctx, r, o...)
}

// The model finds faults that are planted, and a few steps show each.
func TestModelFindsFaults(t *testing.T) {
	fakeruntime.Require(t)
	for name, plant := range map[string]func(*faulty){
		"forgets exit codes": func(f *faulty) {
			f.status = func(r *cri.ContainerStatusResponse, err error) (*cri.ContainerStatusResponse, error) {
				if err == nil {
					r.Status.ExitCode = 0
				}
				return r, err
			}
		},
		"does not know a container that has ended": func(f *faulty) {
			f.status = func(r *cri.ContainerStatusResponse, err error) (*cri.ContainerStatusResponse, error) {
				if err == nil && r.Status.State == cri.ContainerState_CONTAINER_EXITED {
					return nil, os.ErrNotExist
				}
				return r, err
			}
		},
		"lists what does not run":          func(f *faulty) { f.list = func(want *cri.ContainerFilter) { want.State = nil } },
		"lists what has not got the label": func(f *faulty) { f.list = func(want *cri.ContainerFilter) { want.LabelSelector = nil } },
		"stops nothing": func(f *faulty) {
			f.stop = func(context.Context, *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
				return &cri.StopContainerResponse{}, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t, func(c cri.RuntimeServiceClient) cri.RuntimeServiceClient {
				f := &faulty{RuntimeServiceClient: c}
				plant(f)
				return f
			})
			for seed := uint64(1); seed < 300; seed++ {
				f := sequence(d, seed)
				if f == nil {
					continue
				}
				if t.Logf("seed %d\n%s", seed, f); len(f.Steps) > 6 {
					t.Error("not shrunk")
				}
				return
			}
			t.Error("not found")
		})
	}
}
