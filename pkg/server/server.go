// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/sandbox"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stats"
	"github.com/cri-shim/cri-shim/pkg/stream"
)

// stopLimit is how long calls in flight get at the end. Their operations go on
// without them, and a retry joins.
const stopLimit = 5 * time.Second

// Options are what the server works with. Services and Log are required.
type Options struct {
	Store      *state.Store
	Sandboxes  *sandbox.Service
	Containers *container.Service
	Images     *image.Service
	RootFS     *rootfs.Service
	Network    *network.Service
	Stream     *stream.Service
	Stats      *stats.Service

	Version       string    // of cri-shim, semantic
	SystemdCgroup bool      // the cgroup driver kubelets must use
	Host          oci.Host  // that requests are validated for
	Handlers      []Handler // RuntimeClass handlers, the default one under its name and under ""
	Features      Features
	Checks        []Check // what must be well for RuntimeReady
	Config        any     // shown as JSON by a verbose Status; nil hides it

	Metrics prometheus.Registerer // nil measures nothing
	Log     *slog.Logger
}

// Handler is a RuntimeClass handler and what the kubelet may use it for.
type Handler struct {
	Name              string // "" is the default
	RecursiveReadOnly bool   // recursively read-only mounts
	UserNamespaces    bool   // user namespaces and idmapped mounts
}

// Features are what the kubelet may use on this node, whatever the handler.
type Features struct {
	SupplementalGroupsPolicy  bool
	UserNamespacesHostNetwork bool
	MountOptions              bool
}

// Check is one condition of RuntimeReady.
type Check struct {
	Reason string // one CamelCase word for when it is not met
	// Run tells what is wrong. It is asked every few seconds: look, don't wait.
	Run func(ctx context.Context) error
}

// Server serves the CRI.
type Server struct {
	o     Options
	grpc  *grpc.Server
	gate  gate
	calls atomic.Uint64 // numbers the calls in the log
}

// New builds the server. It answers Version and Status from the start, the
// other RPCs after Open.
func New(o Options) (*Server, error) {
	s := &Server{o: o}
	unary := []grpc.UnaryServerInterceptor{s.unary}
	streaming := []grpc.StreamServerInterceptor{s.streaming}
	metrics := grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram())
	if o.Metrics != nil {
		if err := o.Metrics.Register(metrics); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
		// Outermost, as they count what the client gets.
		unary = append([]grpc.UnaryServerInterceptor{metrics.UnaryServerInterceptor()}, unary...)
		streaming = append([]grpc.StreamServerInterceptor{metrics.StreamServerInterceptor()}, streaming...)
	}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(streaming...),
		grpc.WaitForHandlers(true),
	)
	a := &api{Options: o, gate: &s.gate}
	cri.RegisterRuntimeServiceServer(s.grpc, a)
	cri.RegisterImageServiceServer(s.grpc, a)
	metrics.InitializeMetrics(s.grpc)
	return s, nil
}

// Open lets all RPCs through: recovery has finished.
func (s *Server) Open() { s.gate.open() }

// Serve answers on l until ctx ends, then lets calls in flight finish for five
// seconds. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.gate.close()
		force := time.AfterFunc(stopLimit, s.grpc.Stop)
		defer force.Stop()
		s.grpc.GracefulStop()
	})
	err := s.grpc.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	s.gate.close()
	s.grpc.Stop()
	if err == nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("serve CRI: %w", err)
}

// api is the RPCs. The two embedded interfaces stay nil: they leave no RPC
// unanswered without the compiler noticing, unlike the generated defaults.
type api struct {
	Options
	gate *gate
	refs imageRefs

	cri.UnsafeRuntimeServiceServer
	cri.UnsafeImageServiceServer
}
