// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/model"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

const (
	modelSteps   = 12
	modelRuns    = 60 // half a minute on 2 cores
	modelWorkers = 2
	holdTime     = 300 * time.Millisecond // in which a call comes to the monitor that is stopped
	killUnit     = 4 * time.Millisecond   // of the time after which the daemon dies in a call
)

// TestModel compares the daemon with the model of test/model. MODEL_RUNS is how many
// sequences; MODEL_SEED repeats one that failed.
func TestModel(t *testing.T) {
	runs, first, workers := nodetest.Number("MODEL_RUNS", modelRuns), uint64(time.Now().UnixNano()), uint64(modelWorkers)
	if seed := nodetest.Number("MODEL_SEED", 0); seed > 0 {
		runs, first, workers = 1, seed, 1
	}
	for w := range workers {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			n := &modelNode{Node: node(t), t: t}
			d := n.driver()
			for seed := first + w; seed < first+runs && !t.Failed(); seed += workers {
				n.compare(d, seed)
			}
		})
	}
}

// modelNode is a node as the model's driver wants it. What the daemon's neighbours
// refuse is left to the fake ones of test/model.
type modelNode struct {
	*nodetest.Node
	t     *testing.T
	life  time.Duration // of the daemon in the next call; 0: it lives on
	death *time.Timer   // of the daemon, in a call; nil: none
	dead  chan struct{} // closed when it is
}

// compare does the sequence of a seed, and shrinks it where it fails.
func (n *modelNode) compare(d *model.Driver, seed uint64) {
	n.t.Helper()
	around := []model.Kind{
		model.End, model.KillProcess, model.KillPause, model.CrashAtStep, model.CrashAtStep, model.Crash, model.HoldMonitor, model.HoldMonitor,
	}
	if monitornode.ExitKnownAfterReap(n.t) { // exit codes outlive the monitor; TestMonitorKilled is for kernels where they do not
		around = append(around, model.KillMonitor, model.KillMonitor, model.KillBoth)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	steps := model.Sequence(r, modelSteps, around)
	nth := 1 + r.IntN(40)
	d.Steps = func() int { return nth }
	f := model.Check(d, steps)
	if f == nil {
		return
	}
	n.t.Errorf("MODEL_SEED=%d go test -tags integration -run TestModel ./test/integration\n%s", seed, f)
	n.t.Logf("shrunk:\n%s", model.Shrink(d, f))
}

func (n *modelNode) driver() *model.Driver {
	parent := n.PodConfig("model").Linux.CgroupParent
	return &model.Driver{
		Node: n, Image: nodetest.TestImage, Command: []string{tb, "sleep"}, Exec: []string{tb, "exit", "3"},
		Change: func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = parent },
	}
}

func (n *modelNode) Fault(kind model.Kind) { n.t.Fatalf("no fault %q on a real node", kind) }
func (n *modelNode) Heal()                 {}
func (n *modelNode) Left() error           { return n.Settled() }

func (n *modelNode) Around(kind model.Kind) {
	n.t.Helper()
	old := n.monitor()
	if kind == model.HoldMonitor {
		if err := old.Signal(syscall.SIGSTOP); err != nil {
			n.t.Fatal(err)
		}
		time.AfterFunc(holdTime, func() { old.Signal(syscall.SIGCONT) }) // killed in between: nothing to do
		return
	}
	if kind != model.Crash {
		if err := old.Kill(); err != nil {
			n.t.Fatal(err)
		}
	}
	if kind != model.KillMonitor {
		if err := n.Kill(); err != nil {
			n.t.Fatal(err)
		}
		n.next()
	}
	nodetest.Eventually(n.t, patience, "a monitor runs", func() bool {
		now := n.MonitorPID()
		return now != 0 && (now != old.Pid || kind == model.Crash) && condition(n.t, n.Node, cri.RuntimeReady).Status
	})
}

// monitor is the process of the monitor, which is not mistaken for one that gets its number.
func (n *modelNode) monitor() *os.Process {
	n.t.Helper()
	p, err := os.FindProcess(monitorPID(n.t, n.Node))
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// next starts the next daemon, which has recovered when it returns.
func (n *modelNode) next() {
	n.t.Helper()
	if err := n.Up(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	n.AwaitRecovered(n.t)
}

// CrashAtStep kills the daemon after a time: its steps are counted by the fake node of test/model alone.
func (n *modelNode) CrashAtStep(nth int) { n.life = time.Duration(nth) * killUnit }

// Client is the daemon's. The time that is left to it begins with a call, not while the driver looks for a process.
func (n *modelNode) Client(kind model.Kind) cri.RuntimeServiceClient {
	if n.life > 0 && !slices.Contains([]model.Kind{model.End, model.KillProcess, model.KillPause}, kind) {
		dead := make(chan struct{})
		n.dead = dead
		n.death = time.AfterFunc(n.life, func() {
			defer close(dead)
			if err := n.Kill(); err != nil {
				n.t.Error(err)
			}
		})
		n.life = 0
	}
	return n.Runtime
}

func (n *modelNode) Survived() bool {
	n.t.Helper()
	death := n.death
	n.life, n.death = 0, nil
	if death == nil || death.Stop() {
		return true
	}
	<-n.dead
	n.next()
	return false
}
