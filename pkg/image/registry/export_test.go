// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
)

// HostNames are those that a pull from the named registry would ask.
func HostNames(ctx context.Context, configDir, name string) ([]string, error) {
	h := &Hosts{trusted: map[string]bool{}, failed: map[string]int{}}
	h.configured = config.ConfigureHosts(ctx, config.HostOptions{HostDir: hostDir(configDir), Credentials: h.credentials})
	hosts, err := h.hosts(name)
	var out []string
	for _, host := range hosts {
		out = append(out, host.Host)
	}
	return out, err
}

// Challenge handles a 401 as a pull does.
func Challenge(ctx context.Context, r *http.Request, header http.Header) error {
	resp := &http.Response{Request: r, StatusCode: http.StatusUnauthorized, Header: header.Clone(), Body: http.NoBody}
	trim(r, resp)
	a := docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) { return "u", "p", nil }))
	return a.AddResponses(ctx, []*http.Response{resp})
}

// PutOff says how long an answer wants a client to wait.
func PutOff(resp *http.Response) (time.Duration, bool) { return putOff(resp) }
