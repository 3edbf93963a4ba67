// SPDX-License-Identifier: Apache-2.0

// Package registry talks to image registries: it resolves names and opens blobs, at a registry or one of its mirrors.
//
// Credentials go to the hosts that they are for and to no other. A host that fails is asked after the others; a request
// that stalls is sent again, and a pull to which nothing comes for its whole limit is given up. What the registry says
// is bounded where it is read into memory. Errors have one class each, and neither passwords nor signed addresses in
// their texts.
//
// The package doesn't check digests and stores nothing.
package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
)

// Hosts are the hosts of one pull: the registry and its mirrors, with one set of clients and tokens for
// resolving and fetching, and the list of those that credentials may go to. A host that a registry redirects to, a blob
// store, is none of them. A host that fails is asked after the others from then on: a mirror that says nothing costs a
// pull one timeout, not one for each blob.
type Hosts struct {
	creds      Credentials
	watch      *Watch
	log        *slog.Logger
	configured docker.RegistryHosts

	mu       sync.Mutex // guards the rest
	name     string
	known    []docker.RegistryHost // in the order of the configuration
	trusted  map[string]bool
	failures int
	failed   map[string]int // number of each host's last failure; none: 0
}

// NewHosts prepares the registry client of one pull. dir is a certs.d tree, "" for the registries themselves. hosts.toml
// is read at its first use, so each pull sees the files of its day.
func NewHosts(ctx context.Context, dir string, c Credentials, w *Watch, log *slog.Logger) *Hosts {
	h := &Hosts{creds: c, watch: w, log: log, trusted: map[string]bool{}, failed: map[string]int{}}
	o := config.HostOptions{UpdateClient: h.wrap, Credentials: h.credentials}
	if dir != "" {
		o.HostDir = hostDir(dir)
	}
	h.configured = config.ConfigureHosts(ctx, o)
	return h
}

// hostsFileLimit is how many bytes a hosts.toml may have: the library that parses it takes quadratic time.
const hostsFileLimit = 64 << 10

// hostDir finds the directory of a registry in a certs.d tree.
func hostDir(root string) func(host string) (string, error) {
	find := config.HostDirFromRoot(root)
	return func(host string) (string, error) {
		dir, err := find(host)
		if err != nil {
			return "", err
		}
		file := filepath.Join(dir, "hosts.toml")
		if fi, err := os.Stat(file); err == nil && fi.Size() > hostsFileLimit {
			return "", fmt.Errorf("read %s: %d bytes exceed the limit of %d: %w", file, fi.Size(), hostsFileLimit, errdefs.ErrInvalidArgument)
		}
		return dir, nil
	}
}

func (h *Hosts) resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: h.hosts, Headers: http.Header{"User-Agent": {"cri-shim"}}})
}

// hosts returns those of a registry, the ones that failed last.
func (h *Hosts) hosts(name string) ([]docker.RegistryHost, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil || h.name != name {
		known, err := h.configured(name)
		if err != nil {
			return nil, err
		}
		for i, host := range known {
			h.trusted[host.Host] = true
			if h.creds.bearer != "" && h.creds.validFor(host.Host) {
				host.Authorizer = bearerAuthorizer{host: host.Host, token: h.creds.bearer}
			}
			known[i].Authorizer = namingAuthorizer{host.Authorizer, host.Host, make(chan struct{}, 1)}
		}
		h.name, h.known = name, known
	}
	ordered := slices.Clone(h.known)
	slices.SortStableFunc(ordered, func(a, b docker.RegistryHost) int { return h.failed[a.Host] - h.failed[b.Host] })
	return ordered, nil
}

// fail puts a host behind the others.
func (h *Hosts) fail(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures++
	h.failed[host] = h.failures
}

// another says whether there is a host, besides this one, that can do what is wanted and hasn't failed.
func (h *Hosts) another(host string, want docker.HostCapabilities) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.known, func(k docker.RegistryHost) bool {
		return k.Host != host && h.failed[k.Host] == 0 && k.Capabilities.Has(want)
	})
}

func (h *Hosts) several() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.known) > 1
}

func (h *Hosts) credentials(host string) (string, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.trusted[host] || !h.creds.validFor(host) {
		return "", "", nil
	}
	return h.creds.username, h.creds.secret, nil
}

type (
	tokenFor struct{} // context key: the host for which a token server is asked
	wanted   struct{} // context key: the docker.HostCapabilities that a request is for; none: pulling
)

// namingAuthorizer notes in the requests that it makes to a token server for which host they are. It lets one request at
// a time get a token: the library, which gets one for all, reads it without the lock that it writes it under.
type namingAuthorizer struct {
	docker.Authorizer
	host string
	turn chan struct{} // holds one element while a request is being authorized
}

func (a namingAuthorizer) Authorize(ctx context.Context, r *http.Request) error {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
		return a.Authorizer.Authorize(context.WithValue(ctx, tokenFor{}, a.host), r)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hostOfRequest is the host of the pull that a request is sent for: that of the first of a chain of redirects, or the
// one whose token server is asked.
func hostOfRequest(r *http.Request) string {
	if host, ok := r.Context().Value(tokenFor{}).(string); ok {
		return host
	}
	for r.Response != nil && r.Response.Request != nil {
		r = r.Response.Request
	}
	return r.URL.Host
}

func wantedOf(r *http.Request) docker.HostCapabilities {
	if want, ok := r.Context().Value(wanted{}).(docker.HostCapabilities); ok {
		return want
	}
	return docker.HostCapabilityPull
}
