// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/nri/pkg/adaptation"
	nrilog "github.com/containerd/nri/pkg/log"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

const (
	runtimeName = "cri-shim"
	// defaultRequestTimeout is more than NRI's own 2 s: a plugin that is synchronised with a full node, or the last
	// of several, needs longer, and what it missed by being cut off it never learns.
	defaultRequestTimeout      = 5 * time.Second
	defaultRegistrationTimeout = 5 * time.Second
)

// Options of New. Socket, State, Update and Host.Resources are required.
type Options struct {
	Socket  string // where plugins connect; its directory is made, 0700
	Version string // of cri-shim, as plugins are told
	// PluginDir holds executables that are started as plugins, "" for none; PluginConfigDir their configuration.
	PluginDir, PluginConfigDir string
	// RegistrationTimeout and RequestTimeout bound how long a plugin may take; 0 means 5 seconds each. They are the
	// library's, and so hold for the whole process.
	RegistrationTimeout, RequestTimeout time.Duration
	// Validation checks what plugins ask for; nil checks nothing.
	Validation *Validation
	// State returns every pod and container that clients can see. It must not take a lock that is held while one of
	// the Service's methods is called.
	State func() ([]Pod, []Container)
	// Update applies updates and evictions that plugins ask for on their own, and returns those that failed. It must
	// not call UpdateContainer for them.
	Update func(ctx context.Context, updates []Update) ([]Update, error)
	Host   Host
	Log    *slog.Logger
}

// Host is what adjustments need to know of the machine.
type Host struct {
	Facts sys.Facts
	// Resources sets the fields of r that are not zero in spec, as this machine can honour them.
	Resources func(spec *specs.Spec, r *cri.LinuxContainerResources) error
	// CDI injects the named CDI devices into spec; nil refuses them.
	CDI func(spec *specs.Spec, names []string) error
	// Propagation tells how the mount that holds a path propagates; nil does not check.
	Propagation mount.Lookup
}

// Service relays lives to plugins. Its methods may be called concurrently, for one object only one at a time.
type Service struct {
	o       Options
	log     *slog.Logger
	nri     *adaptation.Adaptation
	plugins atomic.Int32 // connected, built-in validation included
	empty   atomic.Bool  // the synchronisation under way has no plugin to inform
	ledger  ledger

	mu      sync.Mutex    // guards pending
	pending []Update      // asked for in reply to a synchronisation, not applied yet
	wake    chan struct{} // pending has grown
}

// New makes the service. Nothing listens before Start.
func New(o Options) (*Service, error) {
	if o.Socket == "" || o.State == nil || o.Update == nil || o.Host.Resources == nil {
		return nil, fmt.Errorf("nri options: socket, state, update and resources are required: %w", errdefs.ErrInvalidArgument)
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = defaultRequestTimeout
	}
	if o.RegistrationTimeout <= 0 {
		o.RegistrationTimeout = defaultRegistrationTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, log: o.Log, ledger: ledger{told: map[string]stage{}}, wake: make(chan struct{}, 1)}
	if _, ours := nrilog.Get().(libraryLog); !ours {
		nrilog.Set(libraryLog{o.Log}) // one per process; the first service's
	}
	adaptation.SetPluginRequestTimeout(o.RequestTimeout)
	adaptation.SetPluginRegistrationTimeout(o.RegistrationTimeout)
	var err error
	s.nri, err = adaptation.New(runtimeName, o.Version, s.synchronize, s.update,
		adaptation.WithSocketPath(o.Socket),
		adaptation.WithPluginPath(o.PluginDir),
		adaptation.WithPluginConfigPath(o.PluginConfigDir),
		adaptation.WithMetrics(counter{s}),
		adaptation.WithDefaultValidator(o.Validation.config()),
		adaptation.WithTTRPCOptions(
			[]ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(replyEvictions)},
			[]ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(requestEvictions)},
		),
	)
	if err != nil {
		return nil, fmt.Errorf("make nri service: %w", err)
	}
	return s, nil
}

// Start takes stock of what exists, starts the plugins of PluginDir and listens for others. ErrUnavailable when
// another runtime serves the socket. Call it once, when State is right and before clients are served.
func (s *Service) Start(ctx context.Context) error {
	if s == nil {
		return nil
	}
	if err := s.socketFree(ctx); err != nil {
		return err
	}
	s.takeStock()
	entries, err := os.ReadDir(s.o.PluginDir)
	s.empty.Store(err != nil || len(entries) == 0)
	defer s.empty.Store(false)
	if err := sys.Unprotected(s.nri.Start); err != nil {
		return fmt.Errorf("start nri: %w", err)
	}
	return nil
}

// socketFree protects another runtime of this node: the library would take its socket away.
func (s *Service) socketFree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", s.o.Socket)
	if err != nil {
		return nil // nothing listens; a stale socket is replaced
	}
	conn.Close()
	return fmt.Errorf("start nri: another runtime serves %s: %w", s.o.Socket, errdefs.ErrUnavailable)
}

// Run applies what plugins ask for in reply to their synchronisation, until ctx ends; then it stops the service.
func (s *Service) Run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	defer s.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			s.applyPending(ctx)
		}
	}
}

// Stop ends listening and the plugins of PluginDir. The other plugins' connections end with the process.
func (s *Service) Stop() {
	if s != nil {
		s.nri.Stop()
	}
}

// tell relays one request while no plugin is being synchronised. Without plugins request is not called.
func (s *Service) tell(ctx context.Context, what string, request func() error) error {
	block := s.nri.BlockPluginSync()
	defer block.Unblock()
	return s.tellBlocked(ctx, what, request)
}

// tellBlocked is tell for who holds the block already: it cannot be taken twice.
func (s *Service) tellBlocked(ctx context.Context, what string, request func() error) error {
	if s.plugins.Load() == 0 {
		return nil
	}
	err := request()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("nri: %s: %w", what, context.Cause(ctx))
	}
	// The plugin's text only: one that answers NotFound must not make an idempotent RPC succeed.
	return fmt.Errorf("nri: %s: %s: %w", what, errgrpc.ToNative(err).Error(), errdefs.ErrFailedPrecondition)
}

// notify relays what no plugin can prevent any more.
func (s *Service) notify(ctx context.Context, what string, request func() error) {
	if err := s.tell(ctx, what, request); err != nil {
		s.log.Warn("plugin error ignored, the operation can no longer be refused", "err", err)
	}
}

// counter keeps the number of plugins, which the library tells only its metrics.
type counter struct{ s *Service }

// RecordPluginInvocation does nothing.
func (counter) RecordPluginInvocation(string, string, error) {}

// RecordPluginLatency does nothing.
func (counter) RecordPluginLatency(string, string, time.Duration) {}

// RecordPluginAdjustments does nothing.
func (counter) RecordPluginAdjustments(string, string, *adaptation.ContainerAdjustment, int, int) {}

// UpdatePluginCount notes how many plugins there are. It lags behind a plugin that left until the next request.
func (c counter) UpdatePluginCount(count int) {
	if before := c.s.plugins.Swap(int32(count)); before != int32(count) {
		c.s.log.Info("nri plugins", "count", count)
	}
}
