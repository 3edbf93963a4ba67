// SPDX-License-Identifier: Apache-2.0

package fakeruntime

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/test/await"
)

// Patience is how long what must happen may take.
const Patience = 20 * time.Second

// PluginLimit is how long the network plugin may take.
const PluginLimit = time.Second

// Daemon is what pods and containers are made with, in one process of the daemon.
type Daemon struct {
	*Node
	Store   *state.Store
	Ops     *state.Ops
	Images  *image.Service  // nil where nothing can be mounted
	RootFS  *rootfs.Service // likewise
	Network *network.Service
	Runtime *runc.Service
	Monitor *monitor.Client
	Host    oci.Host
	Log     *slog.Logger

	life     context.Context
	cancel   context.CancelCauseFunc
	services sync.WaitGroup
	fault    fault
	end      func()
}

// Up starts the next process of the daemon, which is connected to the monitor if
// one runs. The one before must have ended.
func (n *Node) Up() *Daemon {
	n.t.Helper()
	d := &Daemon{Node: n, Log: slog.New(slog.NewTextHandler(n.t.Output(), nil))}
	d.life, d.cancel = context.WithCancelCause(context.Background())
	d.end = sync.OnceFunc(d.close)
	if err := errors.Join(d.openStores(), d.openServices()); err != nil {
		n.t.Fatal(err)
	}
	d.Ops = state.NewOps(d.life)
	d.Ops.InjectFaults(d.fault.strike)
	d.Go(d.Monitor.Run)
	n.t.Cleanup(d.End)
	if n.monitor != nil {
		d.AwaitMonitor()
	}
	return d
}

func (d *Daemon) openStores() (err error) {
	if d.Store, err = state.Open(d.Layout, "boot", d.Log); err != nil || !Isolated() {
		return err
	}
	o := image.Options{Root: d.Layout.Images(), InUse: rootfs.Chains(d.Layout.Images()), Log: d.Log}
	if d.Images, err = image.Open(d.life, o); err != nil {
		return err
	}
	if d.RootFS, err = rootfs.Open(d.Images, d.Layout.Images(), d.Log); err != nil {
		return err
	}
	return d.Images.Preload(d.life, d.preload())
}

func (d *Daemon) openServices() error {
	facts, err := sys.ReadFacts()
	if err != nil {
		return err
	}
	facts.Systemd = false // the script knows no units
	d.Host = oci.Host{Facts: facts, Hostname: "node"}
	d.Monitor = monitor.NewClient(monitor.ClientOptions{Socket: d.Layout.MonitorSocket(), Log: d.Log})
	d.Runtime, err = runc.New(runc.Options{
		Handlers: []runc.Handler{
			{Name: "fake", Path: filepath.Join(d.Dir, "runtime"), Root: d.Layout.RuntimeRoot("fake")},
			{Name: Boxed, Path: filepath.Join(d.Dir, "runtime"), Root: d.Layout.RuntimeRoot(Boxed), Kind: runc.GVisor},
		},
		Default: "fake", Bundles: d.Layout.Bundles(), Locks: d.Layout.RuntimeLocks(), Monitor: d.Monitor,
	})
	if err != nil {
		return err
	}
	d.Network, err = network.New(network.Options{
		ConfDir: filepath.Join(d.Dir, "net.d"), BinDirs: []string{filepath.Join(d.Dir, "bin")},
		CacheDir: d.Layout.CNICache(), LockDir: d.Layout.CNILocks(), Timeout: PluginLimit, Log: d.Log,
	})
	return err
}

// Go runs a service until the daemon ends, which waits for it.
func (d *Daemon) Go(service func(context.Context) error) {
	d.services.Go(func() { _ = service(d.life) })
}

// AwaitMonitor returns when the daemon is connected to a monitor.
func (d *Daemon) AwaitMonitor() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.life, Patience)
	defer cancel()
	if err := d.Monitor.AwaitReady(ctx); err != nil {
		d.t.Fatal(err)
	}
}

// LoseMonitor kills the monitor, and returns when the daemon knows.
func (d *Daemon) LoseMonitor() {
	d.t.Helper()
	d.KillMonitor()
	d.Eventually("the daemon sees that the monitor has ended", func() bool { return d.Monitor.Ready() != nil })
}

// ReplaceMonitor kills the monitor and starts the next one.
func (d *Daemon) ReplaceMonitor() {
	d.t.Helper()
	d.LoseMonitor()
	d.StartMonitor()
	d.AwaitMonitor()
}

// Reaches waits for a phase of a container. A withdrawn start is no change on the store's feed.
func (d *Daemon) Reaches(id state.ContainerID, phase state.Phase) state.Container {
	d.t.Helper()
	var c state.Container
	d.Eventually("the container is "+string(phase), func() (is bool) {
		var err error
		c, err = d.Store.Container(string(id))
		return err == nil && c.Phase == phase
	})
	return c
}

// Eventually waits until something is so.
func (n *Node) Eventually(what string, is func() bool) {
	n.t.Helper()
	await.Until(n.t, Patience, what, is)
}

// errEnd and errCrash are why a daemon's life is over.
var (
	errEnd   = errors.New("daemon ends")
	errCrash = errors.New("daemon has crashed")
)

// End ends the daemon in order: its operations are cut off and waited for.
func (d *Daemon) End() {
	d.cancel(errEnd)
	d.end()
}

// Crash ends the daemon as SIGKILL does, as far as that is possible within a
// process: from the call on no record is written, no step is begun and the monitor
// is not reached. What it does with its memory meanwhile does not matter.
func (d *Daemon) Crash() {
	d.Die()
	d.end()
	if err := os.Rename(d.Layout.Records()+".crashed", d.Layout.Records()); err != nil {
		d.t.Error(err)
	}
}

// Die is the moment of a crash, for a plan of AtSteps: Crash is to follow. When it
// returns, the connection to the monitor is gone.
func (d *Daemon) Die() {
	if !d.fault.die() {
		return
	}
	if err := os.Rename(d.Layout.Records(), d.Layout.Records()+".crashed"); err != nil {
		d.t.Error(err)
	}
	d.cancel(errCrash)
	for d.Monitor.Ready() == nil {
		time.Sleep(100 * time.Microsecond)
	}
}

func (d *Daemon) close() {
	d.services.Wait()
	if err := d.Ops.Wait(context.Background()); err != nil {
		d.t.Error(err)
	}
	if d.Images != nil {
		if err := d.Images.Close(); err != nil {
			d.t.Error(err)
		}
	}
}

// fault is what happens at the steps of operations.
type fault struct {
	mu   sync.Mutex // guards what follows
	dead bool
	plan func(operation, step string, m state.Moment) error
}

func (f *fault) strike(operation, step string, m state.Moment) error {
	f.mu.Lock()
	dead, plan := f.dead, f.plan
	f.mu.Unlock()
	if dead {
		return errCrash
	}
	if plan == nil {
		return nil
	}
	return plan(operation, step, m)
}

// die reports whether the daemon was alive.
func (f *fault) die() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := !f.dead
	f.dead = true
	return was
}

// AtSteps has plan asked at every step of every operation from now on; nil ends that.
func (d *Daemon) AtSteps(plan func(operation, step string, m state.Moment) error) {
	d.fault.mu.Lock()
	defer d.fault.mu.Unlock()
	d.fault.plan = plan
}

// Places are where an operation passes while do runs, in order, as "step moment".
func (d *Daemon) Places(operation string, do func()) []string {
	var mu sync.Mutex
	var passed []string
	d.AtSteps(func(op, step string, m state.Moment) error {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(op, operation) {
			passed = append(passed, step+" "+string(m))
		}
		return nil
	})
	do()
	d.AtSteps(nil)
	mu.Lock()
	defer mu.Unlock()
	return passed
}

// At has do called, once, where an operation passes a place; its error is the step's.
func (d *Daemon) At(operation, place string, do func() error) {
	var once sync.Once
	d.AtSteps(func(op, step string, m state.Moment) (err error) {
		if strings.HasPrefix(op, operation) && place == step+" "+string(m) {
			once.Do(func() { err = do() })
		}
		return err
	})
}
