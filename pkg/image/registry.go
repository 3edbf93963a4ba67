// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
)

// resolver makes the registry client of one pull. hosts.toml is read here, so each pull sees the files of its day.
func (s *Service) resolver(ctx context.Context, c credentials, w *watch) remotes.Resolver {
	h := &registryHosts{creds: c, trusted: map[string]bool{}}
	o := config.HostOptions{UpdateClient: w.wrap, Credentials: h.credentials}
	if s.registryConfig != "" {
		o.HostDir = config.HostDirFromRoot(s.registryConfig)
	}
	h.configured = config.ConfigureHosts(ctx, o)
	return docker.NewResolver(docker.ResolverOptions{Hosts: h.hosts, Headers: http.Header{"User-Agent": {"cri-shim"}}})
}

// registryHosts keeps the hosts of one pull: one set of clients and tokens for resolving and fetching, and the list of
// hosts that credentials may go to. A host that a registry redirects to, a blob store, is none of them.
type registryHosts struct {
	creds      credentials
	configured docker.RegistryHosts

	mu      sync.Mutex // guards the rest
	name    string
	known   []docker.RegistryHost
	trusted map[string]bool
}

func (h *registryHosts) hosts(name string) ([]docker.RegistryHost, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known != nil && h.name == name {
		return h.known, nil
	}
	hosts, err := h.configured(name)
	if err != nil {
		return nil, err
	}
	for i, host := range hosts {
		h.trusted[host.Host] = true
		if h.creds.bearer != "" && h.creds.validFor(host.Host) {
			hosts[i].Authorizer = bearerAuthorizer{host: host.Host, token: h.creds.bearer}
		}
	}
	h.name, h.known = name, hosts
	return hosts, nil
}

func (h *registryHosts) credentials(host string) (string, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.trusted[host] || !h.creds.validFor(host) {
		return "", "", nil
	}
	return h.creds.username, h.creds.secret, nil
}
