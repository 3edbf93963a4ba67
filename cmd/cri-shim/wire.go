// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/cri-shim/cri-shim/cmd/pause"
	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/container/nriview"
	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/sandbox"
	"github.com/cri-shim/cri-shim/pkg/server"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stats"
	"github.com/cri-shim/cri-shim/pkg/stream"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// daemon is every service, built in layer order by wire.
type daemon struct {
	config     Config
	layout     state.Layout
	lock       *os.File
	log        *slog.Logger
	services   *errgroup.Group // run until the daemon's life ends
	ops        *state.Ops
	store      *state.Store
	monitor    *monitor.Client
	network    *network.Service
	images     *image.Service
	rootfs     *rootfs.Service
	host       oci.Host
	runtime    *runc.Service
	features   <-chan []server.Handler // what the runtimes can do, once they have said
	plugins    *nri.Service            // nil with [nri] enable = false
	containers *container.Service
	sandboxes  *sandbox.Service
	stream     *stream.Service
	server     *server.Server
	registry   *prometheus.Registry // nil without [metrics] address
}

// wire builds the daemon, bottom up. ctx is the daemon's life, and the one of
// services. What other processes have to get ready is begun early: they work
// while records are read.
func wire(ctx context.Context, services *errgroup.Group, c Config, log *slog.Logger) (*daemon, error) {
	d := &daemon{config: c, log: log, services: services, layout: state.Layout{Root: filepath.Clean(c.Root), State: filepath.Clean(c.State)}}
	for _, step := range []func(context.Context) error{
		d.wireDirectories, d.wireMonitor, d.wireRuntime, d.begin, d.wireState, d.wireNetwork, d.wireImages, d.wireDomain, d.wireServer,
	} {
		if err := step(ctx); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

// wireDirectories makes the two directories, for root only, and takes the root
// directory's lock: two daemons on one root would undo each other's work.
func (d *daemon) wireDirectories(ctx context.Context) error {
	for _, dir := range []string{d.layout.Root, d.layout.State, d.layout.Bundles(), filepath.Dir(d.layout.UserNS("x"))} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return d.lockRoot(ctx)
}

// lockLimit is how long the daemon before this one may take to end.
const lockLimit = 5 * time.Second

// lockRoot takes the root directory's lock. A daemon that was killed a moment
// ago has it until the kernel is done with it.
func (d *daemon) lockRoot(ctx context.Context) (err error) {
	path := filepath.Join(d.layout.Root, "lock")
	d.lock, err = sys.LockFile(path)
	if errors.Is(err, sys.ErrLocked) {
		d.log.Warn("another cri-shim works on the root directory: waiting for its end", "root", d.layout.Root, "limit", lockLimit, "err", err)
		limit, cancel := context.WithTimeout(ctx, lockLimit)
		defer cancel()
		d.lock, err = sys.AwaitLock(limit, path)
	}
	if errors.Is(err, sys.ErrLocked) {
		return fmt.Errorf("another cri-shim works on %s: %w", d.layout.Root, err)
	}
	return err
}

func (d *daemon) wireState(ctx context.Context) error {
	boot, err := sys.BootID()
	if err != nil {
		return err
	}
	d.ops = state.NewOps(ctx)
	injectFaults(d.ops)
	d.store, err = state.Open(d.layout, boot, d.log)
	return err
}

func (d *daemon) wireMonitor(context.Context) error {
	options := monitor.ClientOptions{Socket: d.layout.MonitorSocket(), Version: version, Log: d.log}
	binary, err := companion(d.config.Runtime.Monitor, "cri-monitor")
	if err == nil { // also where a unit starts it: of which build it is comes with this program
		options.Binary = binary
	}
	if d.config.Runtime.StartMonitor {
		if err != nil {
			return err
		}
		spawn := monitor.SpawnOptions{
			Binary: binary, Dir: d.layout.Monitor(), Socket: d.layout.MonitorSocket(),
			LogFile: filepath.Join(d.layout.State, "monitor.log"),
		}
		options.Start = func(ctx context.Context) error { return monitor.Spawn(ctx, spawn) }
	}
	d.monitor = monitor.NewClient(options)
	return nil
}

func (d *daemon) wireNetwork(context.Context) (err error) {
	d.network, err = network.New(network.Options{
		ConfDir: d.config.CNI.ConfDir, BinDirs: pluginDirs(d.config.CNI.BinDir), CacheDir: d.layout.CNICache(), LockDir: d.layout.CNILocks(),
		DefaultNetwork: d.config.CNI.DefaultNetwork, Default: d.config.defaultNetwork(), Log: d.log,
	})
	return err
}

func (d *daemon) wireImages(ctx context.Context) (err error) {
	d.images, err = image.Open(ctx, image.Options{
		Root: d.layout.Images(), RegistryConfig: d.config.Registry.ConfigPath,
		MaxDownloads: d.config.Image.MaxDownloads, ProgressTimeout: time.Duration(d.config.Image.ProgressTimeout), Log: d.log,
		InUse: rootfs.Chains(d.layout.Images()),
	})
	if err == nil {
		d.rootfs, err = rootfs.Open(d.images, d.layout.Images(), d.log)
	}
	return err
}

// wireRuntime resolves the OCI runtimes.
func (d *daemon) wireRuntime(context.Context) (err error) {
	if d.host, err = d.readHost(); err != nil {
		return err
	}
	handlers, err := d.handlers(d.host.Systemd)
	if err != nil {
		return err
	}
	d.runtime, err = runc.New(runc.Options{
		Handlers: handlers, Default: d.config.Runtime.Default, Bundles: d.layout.Bundles(), Locks: d.layout.RuntimeLocks(), Monitor: d.monitor,
	})
	return err
}

// begin connects to the monitor, which starts it where none runs, and asks the
// runtimes what they can do.
func (d *daemon) begin(ctx context.Context) error {
	d.services.Go(func() error { return d.monitor.Run(ctx) })
	features := make(chan []server.Handler, 1)
	d.features = features
	d.services.Go(func() error {
		features <- d.handlerFeatures(ctx)
		return nil
	})
	return nil
}

// wireDomain builds what pods and containers are made with.
func (d *daemon) wireDomain(ctx context.Context) error {
	lookup := oci.Live(ctx, d.config.CDI.SpecDirs...)
	if err := d.wirePlugins(d.host, lookup); err != nil {
		return err
	}
	d.containers = container.New(container.Options{
		Store: d.store, Ops: d.ops, Layout: d.layout, Images: d.images, RootFS: d.rootfs, Runtime: d.runtime,
		Monitor: d.monitor, Plugins: d.plugins, Host: d.host, Lookup: lookup, Log: d.log,
	})
	d.sandboxes = sandbox.New(sandbox.Options{
		Store: d.store, Ops: d.ops, Layout: d.layout, Containers: d.containers, RootFS: d.rootfs, Network: d.network,
		Runtime: d.runtime, Monitor: d.monitor, Plugins: d.plugins, Host: d.host, Lookup: lookup, Pause: pause.Binary(), Log: d.log,
	})
	return nil
}

// wirePlugins prepares NRI; plugins can connect once the daemon serves.
func (d *daemon) wirePlugins(host oci.Host, lookup oci.Lookup) (err error) {
	if !d.config.NRI.Enable {
		return nil
	}
	d.plugins, err = nri.New(nri.Options{
		Socket: d.config.NRI.Socket, Version: semver(version),
		PluginDir: d.config.NRI.PluginDir, PluginConfigDir: d.config.NRI.PluginConfigDir,
		RegistrationTimeout: time.Duration(d.config.NRI.RegistrationTimeout), RequestTimeout: time.Duration(d.config.NRI.RequestTimeout),
		Validation: d.config.NRI.Validator.validation(),
		State:      func() ([]nri.Pod, []nri.Container) { return d.containers.Visible() },
		Update: func(ctx context.Context, u []nri.Update) ([]nri.Update, error) {
			return d.containers.ApplyUpdates(ctx, u)
		},
		Host: nriview.Host(host, lookup), Log: d.log,
	})
	return err
}

// readHost is the machine as the OCI specs see it, with the cgroup driver the
// configuration may have chosen.
func (d *daemon) readHost() (oci.Host, error) {
	facts, err := sys.ReadFacts()
	if err != nil {
		return oci.Host{}, err
	}
	if driver := d.config.Cgroup.Driver; driver != "" {
		facts.Systemd = driver == "systemd"
	}
	if facts.OOMScoreAdjMin > -999 {
		d.log.Warn("without CAP_SYS_RESOURCE oom_score_adj is clamped", "lowest", facts.OOMScoreAdjMin)
	}
	name, err := os.Hostname()
	if err != nil {
		return oci.Host{}, fmt.Errorf("read the node's name: %w", err)
	}
	return oci.Host{Facts: facts, Hostname: name, SeccompRoot: d.config.Runtime.SeccompRoot}, nil
}

// handlers resolves the configured OCI runtimes.
func (d *daemon) handlers(systemd bool) ([]runc.Handler, error) {
	var out []runc.Handler
	for name, h := range d.config.Runtime.Handlers {
		path, err := companion(h.Path, name)
		if err != nil {
			return nil, fmt.Errorf("runtime.handlers.%s: %w", name, err)
		}
		root := h.Root
		if root == "" {
			root = d.layout.RuntimeRoot(name)
		}
		out = append(out, runc.Handler{
			Name: name, Path: path, Root: root, Systemd: systemd, Kind: runc.Kind(h.Kind),
			PodAnnotations: h.PodAnnotations, ContainerAnnotations: h.ContainerAnnotations,
		})
	}
	return out, nil
}

func (d *daemon) wireServer(ctx context.Context) (err error) {
	c := d.config.Stream
	d.stream, err = stream.New(ctx, stream.Options{
		Address: c.Address, Port: c.Port, CertFile: c.CertFile, KeyFile: c.KeyFile, IdleTimeout: time.Duration(c.IdleTimeout),
		Exec: d.containers.Exec, Attach: d.containers.Attach, NetNS: d.sandboxes.NetNSPath, Forward: d.sandboxes.Forward, Log: d.log,
	})
	if err != nil {
		return err
	}
	metrics, err := d.metrics()
	if err != nil {
		return err
	}
	host := d.containers.Host
	d.server, err = server.New(server.Options{
		Store: d.store, Sandboxes: d.sandboxes, Containers: d.containers, Images: d.images, RootFS: d.rootfs, Network: d.network,
		Stream: d.stream, Stats: stats.New(stats.Options{CgroupV2: host.CgroupV2, Log: d.log}),
		Version: semver(version), SystemdCgroup: host.Systemd, Host: host, Handlers: <-d.features,
		Features: server.Features{SupplementalGroupsPolicy: true, UserNamespacesHostNetwork: true, MountOptions: true},
		Checks:   d.checks(), Config: d.config, Metrics: metrics, Log: d.log,
	})
	return err
}

// handlerFeatures asks each runtime what it can do. One that cannot say gets
// nothing promised.
func (d *daemon) handlerFeatures(ctx context.Context) []server.Handler {
	var out []server.Handler
	for _, name := range d.runtime.Handlers() {
		h := server.Handler{Name: name}
		f, err := d.runtime.Features(ctx, name)
		if err != nil {
			d.log.Warn("runtime does not tell its features", "handler", name, "err", err)
		} else {
			idmap := f.Linux != nil && f.Linux.MountExtensions != nil && f.Linux.MountExtensions.IDMap != nil &&
				f.Linux.MountExtensions.IDMap.Enabled != nil && *f.Linux.MountExtensions.IDMap.Enabled
			h.RecursiveReadOnly = slices.Contains(f.MountOptions, "rro")
			handler, _ := d.runtime.Handler(name) // it is one of Handlers
			h.UserNamespaces = handler.HostNamespaces && idmap && f.Linux.Namespaces != nil && slices.Contains(f.Linux.Namespaces, "user")
		}
		if out = append(out, h); name == d.runtime.Default() {
			h.Name = ""
			out = append(out, h)
		}
	}
	return out
}

// checks are the conditions of RuntimeReady.
func (d *daemon) checks() []server.Check {
	checks := []server.Check{
		{Reason: "MonitorNotConnected", Run: func(context.Context) error { return d.monitor.Ready() }},
		{Reason: "RuntimeMissing", Run: func(context.Context) error { return d.runtime.Check() }},
		{Reason: "RootNotWritable", Run: func(context.Context) error { return sys.CheckWritable(d.layout.Root) }},
		{Reason: "StateNotWritable", Run: func(context.Context) error { return sys.CheckWritable(d.layout.State) }},
		{Reason: "OverlayMissing", Run: func(context.Context) error { return sys.CheckFilesystem("overlay") }},
		{Reason: "ControllersMissing", Run: func(context.Context) error { return sys.CheckControllers(sys.CgroupRoot, d.host.CgroupV2) }},
	}
	if d.host.Systemd {
		checks = append(checks, server.Check{Reason: "SystemdNotReachable", Run: func(ctx context.Context) error {
			return sys.CheckSystemd(ctx, sys.SystemdSockets())
		}})
	}
	return checks
}

// semver makes a version that kubelets and crictl can parse of what the build
// was labelled with.
func semver(v string) string {
	v = strings.TrimPrefix(v, "v")
	if v != "" && v[0] >= '0' && v[0] <= '9' && strings.Contains(v, ".") {
		return v
	}
	return "0.0.0-" + v
}
