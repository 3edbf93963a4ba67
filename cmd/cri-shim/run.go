// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// connectLimit is how long a start waits for the monitor.
const connectLimit = 20 * time.Second

// run serves until ctx ends or a service fails, then stops in order: no new
// calls, calls in flight, operations, stores. Pods run on. ctx is the services',
// and the one that operations run on: what ends the services ends them too.
func (d *daemon) run(ctx context.Context) error {
	listener, err := listen(ctx, socketPath(d.config.Listen))
	if err != nil {
		return err
	}
	metrics, err := d.listenMetrics(ctx)
	if err != nil {
		listener.Close()
		return err
	}
	defer context.AfterFunc(ctx, func() { d.tell(systemd.SdNotifyStopping) })()
	return d.together(ctx,
		d.network.Run, d.stream.Run, d.sandboxes.RunExits, d.recoverAndOpen, d.plugins.Run,
		func(ctx context.Context) error { return d.server.Serve(ctx, listener) },
		func(ctx context.Context) error { return d.serveMetrics(ctx, metrics) },
	)
}

// opsLimit is how long operations may take to end with the daemon, after its
// services, which take up to 6 s: together less than the 30 s that are promised.
// What they leave half done is what a crash leaves.
const opsLimit = 20 * time.Second

// together runs the services until all have returned, which they do when one of
// them fails, and waits for the operations.
func (d *daemon) together(ctx context.Context, services ...func(context.Context) error) error {
	for _, service := range services {
		d.services.Go(func() error { return service(ctx) })
	}
	err := d.services.Wait()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), opsLimit)
	defer cancel()
	if late := d.ops.Wait(limit); late != nil {
		d.log.Warn("operations still running at shutdown, the next start resumes them", "err", late)
		d.images = nil // not closed: they may be at work in it
	}
	return err
}

// tell lets a service manager that waits for it know how far the daemon is.
func (d *daemon) tell(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		d.log.Warn("service manager not told", "state", state, "err", err)
	}
}

// recoverAndOpen brings records and kernel together, opens the API, and then
// does what no caller has to wait for.
func (d *daemon) recoverAndOpen(ctx context.Context) error {
	began := time.Now()
	if err := d.awaitMonitor(ctx); err != nil {
		return err
	}
	if err := d.sandboxes.Recover(ctx); err != nil && ctx.Err() == nil {
		d.log.Error("recovery failed, the API opens without it", "err", err)
	}
	if err := d.plugins.Start(ctx); err != nil {
		// Another runtime may own the socket: pods matter more than plugins.
		d.log.Error("NRI not started, plugins cannot connect", "socket", d.config.NRI.Socket, "err", err)
	}
	oldProfile := d.loadAppArmor()
	d.server.Open()
	d.tell(systemd.SdNotifyReady)
	pods, containers := d.store.Count()
	d.log.Info("serving", "listen", d.config.Listen, "pods", pods, "containers", containers, "dur", time.Since(began))
	state.Go(d.ops, "clean up images", d.images.CleanUp, func(err error) {
		if err != nil && ctx.Err() == nil {
			d.log.Warn("image store not cleaned up", "err", err)
		}
	})
	if oldProfile {
		d.renewAppArmor(ctx)
	}
	d.preload(ctx)
	if err := d.awaitRecovered(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("recovery still runs", "err", err)
	}
	if err := d.sandboxes.CollectNetwork(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("addresses of removed pods not released", "err", err)
	}
	return nil
}

// awaitMonitor waits for the first connection: without it nothing can be known.
func (d *daemon) awaitMonitor(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if err := d.monitor.AwaitReady(limit); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return nil
}

func (d *daemon) preload(ctx context.Context) {
	dir := d.config.Image.PreloadDir
	if dir == "" {
		return
	}
	if err := d.images.Preload(ctx, dir); err != nil && ctx.Err() == nil {
		d.log.Error("images not preloaded", "dir", dir, "err", err)
	}
}

// wipe removes every pod, the default network and the monitor. Images stay.
func (d *daemon) wipe(ctx context.Context) error {
	if err := d.awaitMonitor(ctx); err != nil {
		return err
	}
	exits, stop := context.WithCancel(ctx)
	defer stop()
	go func() { _ = d.sandboxes.RunExits(exits) }() // nil when exits ends
	if err := d.sandboxes.Recover(ctx); err != nil {
		return err
	}
	errs := []error{d.awaitRecovered(ctx)}
	for p := range d.store.Pods() {
		errs = append(errs, found(d.sandboxes.Remove(ctx, p.ID)))
	}
	for c := range d.store.Containers() { // those whose pod's record is lost
		errs = append(errs, found(d.containers.Remove(ctx, c.ID)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(d.sandboxes.CollectNetwork(ctx), d.network.RemoveDefaultNetwork(ctx), d.monitor.Shutdown(ctx))
}

// recoveredLimit is how long is waited for what recovery does in the background.
const recoveredLimit = 10 * time.Second

func (d *daemon) awaitRecovered(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoveredLimit)
	defer cancel()
	return d.sandboxes.AwaitRecovered(ctx)
}

// found is err, but for an object that was gone already.
func found(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// close frees what wire took, in reverse; it may be repeated.
func (d *daemon) close() {
	if d.rootfs != nil {
		d.rootfs.Close()
		d.rootfs = nil
	}
	if d.images != nil {
		if err := d.images.Close(); err != nil {
			d.log.Error("image store not closed", "err", err)
		}
		d.images = nil
	}
	if d.lock != nil {
		d.lock.Close()
		d.lock = nil
	}
}

// listen makes the socket for root only. A stale one of a daemon that died is
// replaced: the lock on the root directory says that no other lives.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("listen: %s exists and is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
