// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestClockJumps restarts the daemon, and the monitor with it, on records whose
// times are an hour and a day away, which is what they are after the clock was
// set while nobody looked. The machine's own clock is left alone.
func TestClockJumps(t *testing.T) {
	d := start(t)
	for _, tt := range []struct {
		name string
		set  time.Duration // by which the clock is set
	}{{"an hour back", -time.Hour}, {"a day forward", 24 * time.Hour}} {
		t.Run(tt.name, func(t *testing.T) {
			j := beforeJump(t, d)
			monitor := d.MonitorPID()
			if err := errors.Join(d.Kill(), unix.Kill(monitor, unix.SIGKILL), unix.Kill(j.exiting, unix.SIGQUIT)); err != nil {
				t.Fatal(err)
			}
			nodetest.Eventually(t, 5*time.Second, "the monitor is gone", func() bool { return d.MonitorPID() == 0 })
			shift(t, d, -tt.set)
			if err := d.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			j.reaped = unix.Kill(j.exiting, 0) != nil
			j.answers()
			j.goesOn()
			order := j.created()
			restart(t, d)
			if again := j.created(); !slices.Equal(order, again) {
				t.Errorf("containers are listed as %v, after a restart as %v", order, again)
			}
			j.clear()
		})
	}
}

var timestamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)

// shift moves every time in the daemon's records.
func shift(t *testing.T, d *nodetest.Node, by time.Duration) {
	t.Helper()
	records, _ := filepath.Glob(filepath.Join(d.Layout().Records(), "*", "*.json"))
	moved := 0
	for _, path := range records {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data = timestamp.ReplaceAllFunc(data, func(text []byte) []byte {
			at, err := time.Parse(time.RFC3339Nano, string(text))
			if err != nil {
				t.Fatal(err)
			}
			moved++
			return []byte(at.Add(by).Format(time.RFC3339Nano))
		})
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if moved == 0 {
		t.Fatal("no times in the records")
	}
}

// jump is what a node has when its clock is set.
type jump struct {
	*nodetest.Node
	t                     *testing.T
	runs, idles, stubborn *subject
	ends                  *subject
	exiting               int  // the process that ends while nobody looks
	reaped                bool // PID 1 may have taken its exit code before a monitor came
}

func beforeJump(t *testing.T, d *nodetest.Node) *jump {
	t.Helper()
	j := &jump{Node: d, t: t, runs: started(t, d), idles: newSubject(t, d), stubborn: newSubject(t, d), ends: started(t, d)}
	j.stubborn.container.Args = []string{"stubborn"}
	j.stubborn.must(j.stubborn.run, j.stubborn.create)
	if _, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: j.stubborn.id}); err != nil {
		t.Fatal(err)
	}
	d.AwaitLog(t, j.stubborn.container.Metadata.Name, "ready")
	j.idles.must(j.idles.run, j.idles.create)
	j.exiting = pidOf(t, d, j.ends.id)
	return j
}

func (j *jump) subjects() []*subject { return []*subject{j.runs, j.idles, j.stubborn, j.ends} }

// answers holds what is said of pods and containers from another time.
func (j *jump) answers() {
	j.t.Helper()
	answers(j.t, j.Node)
	for _, w := range j.subjects() {
		p, err := j.Runtime.PodSandboxStatus(j.t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: w.pod})
		if err != nil || p.Status.CreatedAt <= 0 || p.Status.State != cri.PodSandboxState_SANDBOX_READY {
			j.t.Errorf("pod: %v, %v", p, err)
		}
		if s := j.Status(j.t, w.id); s.CreatedAt <= 0 || w != j.idles && s.StartedAt <= 0 {
			j.t.Errorf("container: %v", s)
		}
	}
	want := int32(2)
	if j.reaped || blind() {
		want = 255
	}
	if s := j.AwaitExit(j.t, j.ends.id); s.FinishedAt <= 0 || s.ExitCode != want && s.ExitCode != 2 {
		j.t.Errorf("a container that ended meanwhile: %v", s)
	}
	most := uint64(runtime.NumCPU()) * uint64(time.Second)
	nodetest.Eventually(j.t, 10*time.Second, "there are CPU rates", func() bool {
		c, err := j.Runtime.ContainerStats(j.t.Context(), &cri.ContainerStatsRequest{ContainerId: j.runs.id})
		if err != nil {
			j.t.Fatal(err)
		}
		p, err := j.Runtime.PodSandboxStats(j.t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: j.runs.pod})
		if err != nil {
			j.t.Fatal(err)
		}
		rates := []*cri.UInt64Value{c.Stats.Cpu.UsageNanoCores, p.Stats.Linux.Cpu.UsageNanoCores}
		for _, r := range rates {
			if r.GetValue() > most {
				j.t.Fatalf("a rate of %d of %d processors", r.Value/uint64(time.Second), runtime.NumCPU())
			}
		}
		return rates[0] != nil && rates[1] != nil
	})
}

// blind tells whether the kernel forgets the exit code of a process whose
// parent died.
func blind() bool {
	var u unix.Utsname
	unix.Uname(&u)
	var major, minor int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major < 6 || major == 6 && minor < 15
}

// goesOn holds that the node works on with them: retries join, layers in use
// are kept, time is taken as it passes.
func (j *jump) goesOn() {
	j.t.Helper()
	pod, id := j.idles.pod, j.idles.id
	if err := errors.Join(j.idles.run(), j.idles.create()); err != nil || j.idles.pod != pod || j.idles.id != id {
		j.t.Errorf("repeated requests made pod %s and container %s of %s and %s, %v", j.idles.pod, j.idles.id, pod, id, err)
	}
	removeImage(j.t, j.Node, nodetest.TestImage) // and collects what is not in use
	if err := errors.Join(j.idles.start(), j.runs.exec()); err != nil {
		j.t.Error(err)
	}
	began := time.Now()
	_, err := j.Runtime.StopContainer(j.t.Context(), &cri.StopContainerRequest{ContainerId: j.stubborn.id, Timeout: 1})
	if took := time.Since(began); err != nil || took < time.Second || took > 10*time.Second {
		j.t.Errorf("a stop with a second's grace took %s: %v", took, err)
	}
	if s := j.Status(j.t, j.stubborn.id); s.ExitCode != 137 {
		j.t.Errorf("stopped: %v", s)
	}
	restart(j.t, j.Node)
	j.AwaitImage(j.t, nodetest.TestImage) // is preloaded anew
	fresh := newSubject(j.t, j.Node)
	fresh.pod, fresh.config = j.runs.pod, j.runs.config
	if err := errors.Join(fresh.create(), fresh.start()); err != nil {
		j.t.Error(err)
	}
}

// created lists the containers, which are in order of creation.
func (j *jump) created() []string {
	j.t.Helper()
	r, err := j.Runtime.ListContainers(j.t.Context(), &cri.ListContainersRequest{})
	if err != nil {
		j.t.Fatal(err)
	}
	if !slices.IsSortedFunc(r.Containers, func(a, b *cri.Container) int { return int(a.CreatedAt - b.CreatedAt) }) {
		j.t.Errorf("not in order of creation: %v", r.Containers)
	}
	var out []string
	for _, c := range r.Containers {
		out = append(out, c.Id)
	}
	return out
}

func (j *jump) clear() {
	j.t.Helper()
	for _, w := range j.subjects() {
		if err := errors.Join(w.stopPod(), w.removePod()); err != nil {
			j.t.Error(err)
		}
	}
	nodetest.Eventually(j.t, 8*time.Second, "nothing is left of the pods", func() bool { return j.Remains() == nil })
}
