// SPDX-License-Identifier: Apache-2.0

// Package registry runs a real image registry in this process, on loopback, for tests and measurements.
//
// It keeps everything in memory, wants no credentials and is gone when it is closed. It is the upstream registry as a
// library, so that what pulls from it meets the real protocol.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the storage named below
	"github.com/sirupsen/logrus"
)

// Registry is a running registry.
type Registry struct {
	Addr string // host:port
	URL  string // http://host:port
	srv  *http.Server
}

// Start starts an empty registry on a free port of 127.0.0.1.
func Start(ctx context.Context) (*Registry, error) { return StartAt(ctx, "127.0.0.1:0") }

// StartAt is Start at another address: one that network namespaces of a test share.
func StartAt(ctx context.Context, address string) (*Registry, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	c := &configuration.Configuration{Storage: configuration.Storage{
		"inmemory":    nil,
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	c.Log.AccessLog.Disabled = true
	c.HTTP.Secret = "one process, no secret"
	logrus.SetLevel(logrus.PanicLevel) // the only way to keep it quiet: its logger is the process's
	r := &Registry{Addr: l.Addr().String(), URL: "http://" + l.Addr().String(), srv: &http.Server{Handler: handlers.NewApp(ctx, c)}}
	go func() { // ends with Close
		if err := r.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "registry:", err)
		}
	}()
	return r, nil
}

// Close stops the registry.
func (r *Registry) Close() error { return r.srv.Close() }

// WriteHosts makes dir a registry configuration tree (dir/HOST/hosts.toml) in which each host is this registry, and
// nothing but this registry.
func (r *Registry) WriteHosts(dir string, hosts ...string) error {
	for _, h := range hosts {
		if err := os.MkdirAll(filepath.Join(dir, h), 0o755); err != nil {
			return fmt.Errorf("write hosts: %w", err)
		}
		text := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", r.URL, r.URL)
		if err := os.WriteFile(filepath.Join(dir, h, "hosts.toml"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write hosts: %w", err)
		}
	}
	return nil
}
