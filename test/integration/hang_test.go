// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/disk"
	driver "github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// TestNothingHoldsAnotherPodUp is a table: what hangs in one pod, against every
// call for another pod and for the node, which must be answered in about the
// time that it takes when nothing hangs.
func TestNothingHoldsAnotherPodUp(t *testing.T) {
	d := node(t)
	v := &visit{d: d, usual: map[string]time.Duration{}}
	for range 3 { // the first ones warm up
		v.round(t)
	}
	for _, hang := range []struct {
		name  string
		begin func(*testing.T, *nodetest.Node)
	}{
		{"log on a file system that is frozen", hangLog},
		{"FIFO and device at a log path", hangLogPath},
		{"deep tree that is measured and removed", hangDeepTree},
		{"many files that are measured and removed", hangManyFiles},
		{"clients that do not read", hangClients},
		{"mount that answers nothing, in a layer and as a volume", hangMount},
	} {
		t.Run(hang.name, func(t *testing.T) {
			hang.begin(t, d)
			v.check(t)
			v.check(t)
		})
	}
}

// visit makes every call for a pod of its own and for the node.
type visit struct {
	d      *nodetest.Node
	serial int
	usual  map[string]time.Duration // the longest that each call took when nothing hung
}

// round is a visit while nothing hangs.
func (v *visit) round(t *testing.T) {
	t.Helper()
	for name, took := range v.calls(t) {
		v.usual[name] = max(v.usual[name], took)
	}
}

// check is a visit while something hangs. Two processors that a removal and a
// flood share make every call slower; what waits for them takes seconds.
func (v *visit) check(t *testing.T) {
	t.Helper()
	for name, took := range v.calls(t) {
		if limit := 5*v.usual[name] + 1500*time.Millisecond; took > limit {
			t.Errorf("%s took %s, %s when nothing hangs", name, took, v.usual[name])
		}
	}
}

// calls makes the calls in the order of a pod's life, and returns what each took.
func (v *visit) calls(t *testing.T) map[string]time.Duration {
	t.Helper()
	v.serial++
	r, im := v.d.Runtime, v.d.Images
	config := v.d.PodConfig(fmt.Sprint("visit-", v.serial))
	c := nodetest.ContainerConfig(fmt.Sprint("visitor-", v.serial), "sleep")
	var pod, id, execURL string
	took := map[string]time.Duration{}
	for _, call := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"Version", func(ctx context.Context) error { _, err := r.Version(ctx, &cri.VersionRequest{}); return err }},
		{"Status", func(ctx context.Context) error {
			_, err := r.Status(ctx, &cri.StatusRequest{Verbose: true})
			return err
		}},
		{"RuntimeConfig", func(ctx context.Context) error {
			_, err := r.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
			return err
		}},
		{"UpdateRuntimeConfig", func(ctx context.Context) error {
			_, err := r.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{}})
			return err
		}},
		{"RunPodSandbox", func(ctx context.Context) error {
			a, err := r.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
			pod = a.GetPodSandboxId()
			return err
		}},
		{"CreateContainer", func(ctx context.Context) error {
			a, err := r.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
			id = a.GetContainerId()
			return err
		}},
		{"StartContainer", func(ctx context.Context) error {
			_, err := r.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
			return err
		}},
		{"ReopenContainerLog", func(ctx context.Context) error {
			_, err := r.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
			return err
		}},
		{"UpdateContainerResources", func(ctx context.Context) error {
			_, err := r.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 512}})
			return err
		}},
		{"UpdatePodSandboxResources", func(ctx context.Context) error {
			_, err := r.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod})
			return err
		}},
		{"ExecSync", func(ctx context.Context) error {
			_, err := r.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{tb, "exit"}})
			return err
		}},
		{"Exec", func(ctx context.Context) error {
			a, err := r.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{tb, "echo", "heard"}, Stdout: true})
			execURL = a.GetUrl()
			return err
		}},
		{"exec session", func(ctx context.Context) error { return heard(ctx, execURL) }},
		{"Attach", func(ctx context.Context) error {
			_, err := r.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdout: true})
			return err
		}},
		{"PortForward", func(ctx context.Context) error {
			_, err := r.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: pod, Port: []int32{80}})
			return err
		}},
		{"ListPodSandbox", func(ctx context.Context) error {
			_, err := r.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
			return err
		}},
		{"PodSandboxStatus", func(ctx context.Context) error {
			_, err := r.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
			return err
		}},
		{"PodSandboxStats", func(ctx context.Context) error {
			_, err := r.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: pod})
			return err
		}},
		{"ListPodSandboxStats", func(ctx context.Context) error {
			_, err := r.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
			return err
		}},
		{"ListMetricDescriptors", func(ctx context.Context) error {
			_, err := r.ListMetricDescriptors(ctx, &cri.ListMetricDescriptorsRequest{})
			return err
		}},
		{"ListPodSandboxMetrics", func(ctx context.Context) error {
			_, err := r.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{})
			return err
		}},
		{"ListContainers", func(ctx context.Context) error {
			_, err := r.ListContainers(ctx, &cri.ListContainersRequest{})
			return err
		}},
		{"ContainerStatus", func(ctx context.Context) error {
			_, err := r.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
			return err
		}},
		{"ContainerStats", func(ctx context.Context) error {
			_, err := r.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
			return err
		}},
		{"ListContainerStats", func(ctx context.Context) error {
			_, err := r.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
			return err
		}},
		{"ListImages", func(ctx context.Context) error { _, err := im.ListImages(ctx, &cri.ListImagesRequest{}); return err }},
		{"ImageStatus", func(ctx context.Context) error {
			_, err := im.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: testImage}, Verbose: true})
			return err
		}},
		{"ImageFsInfo", func(ctx context.Context) error { _, err := im.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{}); return err }},
		{"RemoveImage", func(ctx context.Context) error {
			_, err := im.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "cri-shim.test/none:1"}})
			return err
		}},
		{"GetContainerEvents", func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			s, err := r.GetContainerEvents(ctx, &cri.GetEventsRequest{})
			if err == nil {
				_, err = s.Header()
			}
			return err
		}},
		{"StopContainer", func(ctx context.Context) error {
			_, err := r.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 1})
			return err
		}},
		{"RemoveContainer", func(ctx context.Context) error {
			_, err := r.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
			return err
		}},
		{"StopPodSandbox", func(ctx context.Context) error {
			_, err := r.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		}},
		{"RemovePodSandbox", func(ctx context.Context) error {
			_, err := r.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		}},
	} {
		began := time.Now()
		if err := call.do(nodetest.Within(t, 15*time.Second)); err != nil {
			t.Fatalf("%s: %v", call.name, err)
		}
		took[call.name] = time.Since(began)
	}
	return took
}

// heard runs an exec session that says "heard".
func heard(ctx context.Context, url string) error {
	e, err := clients[0].execute(url)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out}); err != nil {
		return err
	}
	if out.String() != "heard\n" {
		return fmt.Errorf("the session said %q", out.String())
	}
	return nil
}

// aside makes calls that may hang for as long as the test's cause does; the end
// of the test waits for them.
func aside(t *testing.T, calls ...func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	for _, call := range calls {
		go func() { call(ctx); done <- struct{}{} }()
	}
	t.Cleanup(func() {
		cancel()
		for range calls {
			<-done
		}
	})
}

// hangLog freezes the file system of a container's log while it writes, has the
// log opened anew and the container stopped.
func hangLog(t *testing.T, d *nodetest.Node) {
	dir := t.TempDir()
	pod, p := quickPodIn(t, d, "frozen", dir)
	freeze, _ := disk.Freezable(t, dir)
	id := d.Run(t, pod, inHostNet("frozen", "lines", "1000000000"), p)
	other := d.Run(t, pod, inHostNet("frozen-too", "lines", "1000000000"), p)
	nodetest.Eventually(t, patience, "lines are logged", func() bool {
		info, err := os.Stat(filepath.Join(dir, "frozen-too.log"))
		return err == nil && info.Size() > 0
	})
	freeze()
	aside(t,
		func(ctx context.Context) {
			d.Runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
		},
		func(ctx context.Context) {
			d.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: other})
		},
	)
}

// quickPodIn is a host-network pod whose logs are in dir.
func quickPodIn(t *testing.T, d *nodetest.Node, name, dir string) (string, *cri.PodSandboxConfig) {
	t.Helper()
	config := hostNet(d.PodConfig(name))
	config.LogDirectory = dir
	return d.Pod(t, config), config
}

// hangLogPath has what blocks an open where logs should be.
func hangLogPath(t *testing.T, d *nodetest.Node) {
	dir := t.TempDir()
	pod, p := quickPodIn(t, d, "odd-log", dir)
	for name, kind := range map[string]uint32{"fifo": unix.S_IFIFO, "device": unix.S_IFCHR} {
		id := d.Run(t, pod, inHostNet(name, "lines", "1000000000"), p)
		path := filepath.Join(dir, name+".log")
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(5, 0))); err != nil {
			t.Fatal(err)
		}
		aside(t, func(ctx context.Context) {
			if _, err := d.Runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id}); err == nil {
				t.Errorf("a %s is taken for a log", name)
			}
		})
	}
}

// hangDeepTree measures and removes 100,000 directories inside each other.
func hangDeepTree(t *testing.T, d *nodetest.Node) { hangTree(t, d, "deepen", "/tree", "100000", "1") }

// hangManyFiles measures and removes 100,000 files.
func hangManyFiles(t *testing.T, d *nodetest.Node) { hangTree(t, d, "files", "/tree", "100000") }

func hangTree(t *testing.T, d *nodetest.Node, command ...string) {
	pod, p := quickPod(t, d, command[0])
	id := d.Run(t, pod, anyPath(inHostNet(command[0], "sleep")), p)
	exec(t, d, id, command...)
	aside(t,
		func(ctx context.Context) {
			d.Runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
		},
		func(context.Context) { // to its end, whenever the test ends
			ctx, cancel := context.WithTimeout(context.Background(), driver.Patience(2*time.Minute))
			defer cancel()
			if _, err := d.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
				t.Errorf("remove a %v: %v", command, err)
			}
		},
	)
}

// hangClients floods clients of every kind of stream, none of which reads.
func hangClients(t *testing.T, d *nodetest.Node) {
	pod, p := quickPod(t, d, "flood")
	id := d.Run(t, pod, inHostNet("flood", "lines", "1000000000"), p)
	r, err := d.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{tb, "lines", "1000000000"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	var calls []func(context.Context)
	for _, url := range []string{r.Url, attach(t, d, id, false, false)} {
		calls = append(calls, func(ctx context.Context) {
			e, err := clients[0].execute(url)
			if err != nil {
				t.Error(err)
				return
			}
			e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: stalled{ctx}, Stderr: stalled{ctx}})
		})
	}
	for range 3 {
		if _, err := d.Runtime.GetContainerEvents(t.Context(), &cri.GetEventsRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	aside(t, calls...)
}

// stalled is a client's output that takes nothing until ctx ends.
type stalled struct{ ctx context.Context }

func (s stalled) Write(b []byte) (int, error) {
	<-s.ctx.Done()
	return 0, context.Cause(s.ctx)
}

// hangMount has a file system that answers nothing in a container's layer,
// which is measured, and as a volume of a container that is being created.
func hangMount(t *testing.T, d *nodetest.Node) {
	pod, p := quickPod(t, d, "dead")
	id := d.Run(t, pod, inHostNet("dead", "sleep"), p)
	exec(t, d, id, "mkdir", "/remote")
	disk.Dead(t, filepath.Join(d.Layout().Images(), "rootfs", id, "upper/remote"))
	volume := t.TempDir()
	disk.Dead(t, volume)
	c := inHostNet("dead-volume", "sleep")
	c.Mounts = []*cri.Mount{{HostPath: filepath.Join(volume, "below"), ContainerPath: "/volume"}}
	aside(t,
		func(ctx context.Context) {
			d.Runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
		},
		func(ctx context.Context) {
			d.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		},
	)
}
