// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Credentials is one AuthConfig in the form the registry client wants. It has no String and is never put into an error.
type Credentials struct {
	username, secret string // an identity token is a secret without username
	bearer           string // registry token, sent as it is
	server           string // host the caller named; "" = any host of this pull
}

// ParseAuth reads every form an AuthConfig has. ErrInvalidArgument when there is none in it that can be read.
func ParseAuth(a *cri.AuthConfig) (Credentials, error) {
	if a == nil {
		return Credentials{}, nil
	}
	c := Credentials{server: hostOf(a.ServerAddress)}
	switch {
	case a.Username != "":
		c.username, c.secret = a.Username, a.Password
	case a.IdentityToken != "":
		c.secret = a.IdentityToken
	case a.RegistryToken != "":
		c.bearer = a.RegistryToken
	case a.Auth != "":
		raw, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return c, fmt.Errorf("read registry credentials: auth is not base64: %w", errdefs.ErrInvalidArgument)
		}
		user, pass, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if !ok {
			return c, fmt.Errorf("read registry credentials: auth is not user:password: %w", errdefs.ErrInvalidArgument)
		}
		c.username, c.secret = user, pass
	}
	return c, nil
}

// Fingerprint tells pulls with different credentials apart, so that no pull uses another's credentials.
func (c Credentials) Fingerprint() [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%q%q%q%q", c.username, c.secret, c.bearer, c.server))
}

// validFor says whether the caller meant these credentials for host.
func (c Credentials) validFor(host string) bool {
	return c.server == "" || canonicalHost(c.server) == canonicalHost(host)
}

// hostOf takes the host from a server address, which is a URL ("https://index.docker.io/v1/") or a bare host.
func hostOf(address string) string {
	if address == "" {
		return ""
	}
	if !strings.Contains(address, "://") {
		address = "//" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return address // matches no host
	}
	return u.Host
}

// canonicalHost: Docker Hub has four names.
func canonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

// bearerAuthorizer sends a token that the caller got from the registry beforehand.
type bearerAuthorizer struct {
	host, token string
}

func (b bearerAuthorizer) Authorize(_ context.Context, r *http.Request) error {
	if r.URL.Host == b.host {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return nil
}

func (b bearerAuthorizer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("registry token was not accepted: %w", docker.ErrInvalidAuthorization)
}
