// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// Options configure the service. Exec, Attach, NetNS and Log are required.
type Options struct {
	Address string // to listen on; "" is 127.0.0.1
	Port    int    // 0 takes a free one
	// CertFile and KeyFile, both or none, switch to HTTPS.
	CertFile, KeyFile string
	// IdleTimeout ends a connection nothing moves on; 0 is 4 hours.
	IdleTimeout time.Duration

	// Exec and Attach run a session and return when it has ended; both must
	// return soon after ctx ends.
	Exec   func(ctx context.Context, id state.ContainerID, cmd []string, client stdio.Client) (exitCode int32, err error)
	Attach func(ctx context.Context, id state.ContainerID, client stdio.Client) error
	// NetNS tells the path of a pod's network namespace, "" for the host's.
	NetNS func(id state.PodID) (string, error)
	// Forward connects to a port of a pod whose network is in none of the machine's namespaces; a nil connection: it is in
	// one. May be nil.
	Forward func(ctx context.Context, id state.PodID, port int32) (net.Conn, error)

	Log *slog.Logger
}

// Service hands out session URLs and serves them.
type Service struct {
	o        Options
	base     url.URL
	listener *clientListener
	server   *http.Server
	tickets  tickets
	sessions sync.WaitGroup // handlers and what they started
}

// New opens the listening socket, so that URLs are valid from then on; they are
// answered as soon as Run runs.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 4 * time.Hour
	}
	s := &Service{o: o, base: url.URL{Scheme: "http"}}
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: remotecommand.DefaultStreamCreationTimeout,
		ConnContext:       clientContext,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	if err := s.loadCertificate(); err != nil {
		return nil, fmt.Errorf("load streaming certificate: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(o.Address, strconv.Itoa(o.Port)))
	if err != nil {
		return nil, fmt.Errorf("listen for streaming: %w", err)
	}
	s.listener = newClientListener(l, o.IdleTimeout)
	s.base.Host = reachable(l.Addr())
	return s, nil
}

// Addr is the address the service listens on.
func (s *Service) Addr() net.Addr { return s.listener.Addr() }

// errStopping is the cause with which sessions end when the daemon does.
var errStopping = fmt.Errorf("the runtime is stopping: %w", errdefs.ErrUnavailable)

// stopLimit is how long sessions get to end and to tell their clients so, and
// again to notice that their clients are cut off. The libraries wait half a
// minute for a client that never opens its streams; no call waits for them.
const stopLimit = 3 * time.Second

func within(limit time.Duration, work *sync.WaitGroup) {
	ended := make(chan struct{})
	go func() { work.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(limit):
	}
}

// Run serves sessions until ctx ends, then ends them, tells their clients so,
// and waits for that. Call it once: the socket is closed when it returns.
func (s *Service) Run(ctx context.Context) error {
	sessions, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	s.server.BaseContext = func(net.Listener) context.Context { return sessions }
	stop := context.AfterFunc(ctx, func() {
		end(errStopping)
		s.server.Close() // what is no session yet
	})
	defer stop()
	err := s.serve()
	end(errStopping)
	within(stopLimit, &s.sessions)
	s.listener.closeClients() // the server forgets connections that were taken over
	within(stopLimit, &s.sessions)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve streaming: %w", err)
}

func (s *Service) serve() error {
	if s.server.TLSConfig != nil {
		return s.server.ServeTLS(s.listener, "", "")
	}
	return s.server.Serve(s.listener)
}

func (s *Service) loadCertificate() error {
	if s.o.CertFile == "" && s.o.KeyFile == "" {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(s.o.CertFile, s.o.KeyFile)
	if err != nil {
		return err
	}
	s.base.Scheme = "https"
	s.server.TLSConfig = &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"}, // sessions take the connection over: not possible with HTTP/2
	}
	return nil
}

// reachable is the host:port for URLs. A client cannot dial "any address"; the
// kubelet, who follows the URLs, is on this machine.
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}
