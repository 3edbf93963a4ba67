// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/ocilayout"
	"github.com/cri-shim/cri-shim/test/registry"
)

// shortKills is how many kills `make test` does; `make crash` sets CRASH_KILLS.
const shortKills = 15

// churn is a node under load whose processes are killed.
type churn struct {
	*nodetest.Node
	t    testing.TB
	over context.Context // ends when the load is to stop
	seen counts
	port atomic.Int32 // the last host port given to a pod; 0 gives none
}

type counts struct {
	monitors, daemons                  atomic.Int64 // kills
	pods, exits, execs, pulls, retries atomic.Int64
	unknown                            atomic.Int64 // codes of starts that were cut off
}

// TestKillsUnderLoad kills the daemon, the monitor, and both at once, at random
// moments, while pods come and go, containers end with known codes, writers
// write numbered lines, commands are executed and images are pulled.
func TestKillsUnderLoad(t *testing.T) {
	seed := nodetest.Number("CRASH_SEED", uint64(time.Now().UnixNano()))
	kills := int(nodetest.Number("CRASH_KILLS", shortKills))
	t.Logf("%d kills; repeat with CRASH_KILLS=%d CRASH_SEED=%d", kills, kills, seed)
	reg, err := registry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	image := pushImage(t, reg)
	d := start(t)
	if err := reg.WriteHosts(filepath.Join(d.Dir, "certs.d"), "crash.test"); err != nil {
		t.Fatal(err)
	}
	pull(t, d, image) // so that the store's own files are there
	removeImage(t, d, image)
	warm(t, d)
	clean := d.Look(t)

	writers := startWriters(t, d, 3)
	ctx, stop := context.WithCancel(t.Context())
	c := &churn{Node: d, t: t, over: ctx}
	var load sync.WaitGroup
	c.runPods(&load, seed)
	load.Go(func() { c.execs(writers[0].id) })
	load.Go(func() { c.pulls(image) })
	c.kill(kills, rand.New(rand.NewPCG(seed, 1000)))
	stop()
	load.Wait()
	t.Logf("%d pods, %d exit codes, %d of starts that were cut off unknown, %d execs, %d pulls, %d requests repeated",
		c.seen.pods.Load(), c.seen.exits.Load(), c.seen.unknown.Load(), c.seen.execs.Load(), c.seen.pulls.Load(), c.seen.retries.Load())
	for _, w := range writers {
		w.check(t, d)
	}
	pull(t, d, image) // ends what killed pulls kept for it
	removeImage(t, d, image)
	d.AwaitSame(t, clean, "after the load")
}

// runPods has four callers run pods.
func (c *churn) runPods(load *sync.WaitGroup, seed uint64) {
	for i := range 4 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		load.Go(func() { c.pods(fmt.Sprintf("churn-%d", i), random) })
	}
}

// kill ends processes at random moments and starts the daemon again.
func (c *churn) kill(n int, random *rand.Rand) {
	for i := range n {
		time.Sleep(node.Patience(time.Duration(200+random.IntN(1200)) * time.Millisecond))
		what := random.IntN(3)
		daemon, monitor := what != 1, what != 0
		if monitor {
			c.seen.monitors.Add(1)
			if pid := c.MonitorPID(); pid > 0 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if daemon {
			c.seen.daemons.Add(1)
			if err := c.Kill(); err != nil {
				c.t.Errorf("kill %d: %v", i, err)
			}
			if err := c.Up(c.t.Context()); err != nil {
				c.t.Errorf("start after kill %d: %v", i, err)
				return
			}
		}
		if c.t.Failed() {
			c.t.Logf("after kill %d: daemon %t, monitor %t", i, daemon, monitor)
			return
		}
	}
}

// patience is how long a request is repeated for while its daemon is away.
const patience = 40 * time.Second

// try repeats what a kill may have cut off, as a kubelet does, and returns the
// last error.
func (c *churn) try(do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), node.Patience(patience))
	defer cancel()
	for {
		err := do(ctx)
		switch status.Code(err) {
		case codes.Unavailable, codes.Canceled, codes.Aborted:
		default:
			return err
		}
		c.seen.retries.Add(1)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// pods runs pods with one container that ends with a known code, one after the other.
func (c *churn) pods(name string, random *rand.Rand) {
	for n := 0; c.over.Err() == nil && !c.t.Failed(); n++ {
		c.pod(fmt.Sprintf("%s-%d", name, n), random.IntN(200), 1+random.IntN(3)*700)
	}
}

func (c *churn) pod(name string, code, lines int) {
	config := c.PodConfig(name)
	if c.port.Load() != 0 {
		config.PortMappings = []*cri.PortMapping{{HostPort: c.port.Add(1), ContainerPort: 80}}
	}
	var pod, id string
	err := c.try(func(ctx context.Context) error {
		r, err := c.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
		pod = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		c.t.Errorf("%s: RunPodSandbox: %v", name, err)
		return
	}
	container := nodetest.ContainerConfig(name, "say", strconv.Itoa(lines), strconv.Itoa(code))
	err = c.try(func(ctx context.Context) error {
		r, err := c.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: container, SandboxConfig: config})
		id = r.GetContainerId()
		return err
	})
	if err != nil {
		c.t.Errorf("%s: CreateContainer: %v", name, err)
	} else {
		c.runToEnd(name, id, int32(code), lines)
	}
	for _, end := range []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := c.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		},
		func(ctx context.Context) error {
			_, err := c.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		},
	} {
		if err := c.try(end); err != nil {
			c.t.Errorf("%s: stop or remove pod %s: %v", name, pod, err)
		}
	}
	c.seen.pods.Add(1)
}

// runToEnd starts the container and holds its exit code and log against what
// its program does. A start that was never acknowledged may have been undone:
// then the code is that of the kill, or of a program that was not executed.
func (c *churn) runToEnd(name, id string, code int32, lines int) {
	acknowledged, starts := false, 0
	// What is in a pipe lives as long as somebody has it open: container, monitor
	// or daemon. When all three end at once its last lines are gone. The daemon
	// has it from the launch's answer on.
	monitors, daemons := c.seen.monitors.Load(), c.seen.daemons.Load()
	err := c.try(func(ctx context.Context) error {
		starts++
		_, err := c.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
		acknowledged = acknowledged || err == nil
		return err
	})
	if err != nil && status.Code(err) != codes.FailedPrecondition { // of a repeated start that had worked
		acknowledged = false
	}
	var got *cri.ContainerStatus
	deadline := time.Now().Add(patience)
	for {
		failed := c.try(func(ctx context.Context) error {
			r, err := c.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
			got = r.GetStatus()
			return err
		})
		if failed != nil {
			c.t.Errorf("%s: ContainerStatus %s: %v", name, id, failed)
			return
		}
		if got.State == cri.ContainerState_CONTAINER_EXITED {
			break
		}
		if time.Now().After(deadline) {
			c.t.Errorf("%s: container %s, started with %v, does not end: %v", name, id, err, got)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	switch {
	case got.ExitCode == code:
		c.seen.exits.Add(1)
		n, err := countLines(lastRun(c.LogOf(c.t, name), starts))
		if lost := c.seen.monitors.Load() != monitors && (c.seen.daemons.Load() != daemons || !acknowledged); (n != lines || err != nil) && !lost {
			c.t.Errorf("%s: %d lines in the log, want %d, after %d starts: %v", name, n, lines, starts, err)
		}
	case !acknowledged && (got.ExitCode == 137 || got.ExitCode == 128):
	case !acknowledged && c.seen.monitors.Load() != monitors && got.ExitCode == 255 && got.Reason == "Unknown":
		// The monitor died between the launch and its answer, and the program ended before the next one: nobody had its
		// pidfd. That is said, and no code made up.
		c.seen.unknown.Add(1)
	default:
		c.t.Errorf("%s: container %s: exit code %d (%s), want %d; started with %v", name, id, got.ExitCode, got.Reason, code, err)
	}
}

// lastRun is the log of the last start: one that was cut off and undone may
// have come as far as writing lines.
func lastRun(log string, starts int) string {
	const first = "line 1\n"
	if at := strings.LastIndex(log, first); starts > 1 && at > 0 {
		return log[at:]
	}
	return log
}

func (c *churn) execs(id string) {
	for n := 0; c.over.Err() == nil && !c.t.Failed(); n++ {
		want := int32(n % 100)
		r, err := c.Runtime.ExecSync(c.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/testbox", "say", "3", fmt.Sprint(want)}, Timeout: 20})
		switch {
		case err != nil: // cut off: that is an error and never an invented code
			time.Sleep(5 * time.Millisecond)
		case r.ExitCode != want || string(r.Stdout) != "line 1\nline 2\nline 3\n":
			c.t.Errorf("exec: code %d, output %q, want %d", r.ExitCode, r.Stdout, want)
		default:
			c.seen.execs.Add(1)
		}
	}
}

func (c *churn) pulls(image string) {
	for c.over.Err() == nil && !c.t.Failed() {
		err := c.try(func(ctx context.Context) error {
			_, err := c.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
			return err
		})
		if err == nil {
			err = c.try(func(ctx context.Context) error {
				_, err := c.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image}})
				return err
			})
		}
		if err != nil {
			c.t.Errorf("pull and remove image: %v", err)
		}
		c.seen.pulls.Add(1)
	}
}

// pushImage puts an image into the registry that takes a moment to pull.
func pushImage(t *testing.T, reg *registry.Registry) string {
	t.Helper()
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	var image ocilayout.Image
	for i := range 8 {
		image.Layers = append(image.Layers, ocilayout.Layer{{Path: fmt.Sprintf("noise-%d", i), Content: noise[i<<10:]}})
	}
	const name = "noise:1"
	if _, err := ocilayout.Push(t.Context(), reg.URL, name, image); err != nil {
		t.Fatal(err)
	}
	return "crash.test/" + name
}

func pull(t testing.TB, d *nodetest.Node, image string) {
	t.Helper()
	if _, err := d.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}}); err != nil {
		t.Errorf("PullImage: %v", err)
	}
}

func removeImage(t testing.TB, d *nodetest.Node, image string) {
	t.Helper()
	if _, err := d.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image}}); err != nil {
		t.Errorf("RemoveImage: %v", err)
	}
}

// writer is a container that writes numbered lines through all of it.
type writer struct {
	name, pod, id string
	pid           int
}

func startWriters(t *testing.T, d *nodetest.Node, n int) []*writer {
	t.Helper()
	var out []*writer
	for i := range n {
		name := fmt.Sprintf("writer-%d", i)
		config := d.PodConfig(name)
		w := &writer{name: name, pod: d.Pod(t, config)}
		w.id = d.Run(t, w.pod, nodetest.ContainerConfig(name, "lines", "0", strconv.Itoa(1+i)), config)
		w.pid = pidOf(t, d, w.id)
		out = append(out, w)
	}
	return out
}

// check ends the writer: it must have run all the time, seen no broken pipe,
// and have each of its lines in its log once.
func (w *writer) check(t *testing.T, d *nodetest.Node) {
	t.Helper()
	s := d.Status(t, w.id)
	if s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("%s: %v", w.name, s)
	}
	if pid := pidOf(t, d, w.id); pid != w.pid {
		t.Errorf("%s: pid was %d, is %d", w.name, w.pid, pid)
	}
	ctx := nodetest.Within(t, time.Minute)
	if _, err := d.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: w.id}); err != nil {
		t.Error(err)
	}
	if s := d.Status(t, w.id); s.ExitCode != 137 {
		t.Errorf("%s ended with %d (%s): it saw more than our kill", w.name, s.ExitCode, s.Reason)
	}
	n, err := countLines(d.LogOf(t, w.name))
	if err != nil {
		t.Errorf("%s: %v", w.name, err)
	}
	t.Logf("%s: %d lines", w.name, n)
	if _, err := d.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: w.pod}); err != nil {
		t.Error(err)
	}
	if _, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.pod}); err != nil {
		t.Error(err)
	}
}
