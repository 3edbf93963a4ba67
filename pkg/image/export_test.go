// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// Guarded runs a pull so that a panic in it is an error.
var Guarded = guarded

// Expiries are when the leases of pulls end, "" for those that do not.
func Expiries(ctx context.Context, s *Service) ([]string, error) {
	all, err := s.leases.List(s.context(ctx))
	var out []string
	for _, l := range all {
		out = append(out, l.Labels[labelExpire])
	}
	return out, err
}

// Normalize is the full form of an image name.
func Normalize(ref string) (string, error) {
	named, err := normalize(ref)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

// Hosts are those that a pull from the named registry would ask.
func Hosts(ctx context.Context, configDir, name string) ([]string, error) {
	h := &registryHosts{trusted: map[string]bool{}, failed: map[string]int{}}
	h.configured = config.ConfigureHosts(ctx, config.HostOptions{HostDir: hostDir(configDir), Credentials: h.credentials})
	hosts, err := h.hosts(name)
	var out []string
	for _, host := range hosts {
		out = append(out, host.Host)
	}
	return out, err
}

// OccupyWalkers keeps every walker of directories busy until the returned func is called.
func OccupyWalkers(s *Service) (release func()) {
	for range walksAtWork {
		s.samples.walkers.working <- struct{}{}
	}
	return func() {
		for range walksAtWork {
			<-s.samples.walkers.working
		}
	}
}

// Walk replaces the measuring of directories.
func Walk(s *Service, walk func(ctx context.Context, path string, sofar func(tree.Usage)) (tree.Usage, error)) {
	s.samples.walk = walk
}

// AgeSamples makes all that is known of directories old.
func AgeSamples(s *Service) {
	s.samples.mu.Lock()
	defer s.samples.mu.Unlock()
	for _, one := range s.samples.known {
		one.until = time.Time{}
	}
}

// Implied are the directories that a layer of these entries has without saying so.
func Implied(entries []*tar.Header) ([]string, error) {
	t := newLayerTree()
	for _, h := range entries {
		if _, err := t.see(h); err != nil {
			return nil, err
		}
	}
	return t.implied(), nil
}

// ParseDocument reads a manifest, or an index if the media type says so, and returns the entries that may be run.
func ParseDocument(raw []byte, mediaType string) ([]ocispec.Descriptor, error) {
	doc, err := parseDocument(raw, ocispec.Descriptor{MediaType: mediaType})
	if err == nil && doc.Manifests == nil {
		err = checkRunnable(doc)
	}
	if err != nil {
		return nil, err
	}
	s := &Service{platform: platforms.Default()}
	_ = offered(doc.Manifests, 1)
	_, _ = shownAnnotations(doc.Annotations)
	return s.candidates(doc.Manifests), nil
}

// ParseConfig reads an image config.
func ParseConfig(raw []byte) error {
	c, err := parseConfig(raw, "")
	if err != nil {
		return err
	}
	return c.checkLayers(len(c.RootFS.DiffIDs))
}

// Extract unpacks a layer, packed or not, as the lowest one.
func Extract(ctx context.Context, dir string, layer io.Reader) error {
	tar, err := decompress(layer)
	if err != nil {
		return err
	}
	defer tar.Close()
	tree, err := extract(ctx, dir, nil, tar)
	if err == nil {
		_ = tree.implied()
	}
	return err
}

// ImportArchive reads an archive into the store and returns how many images it names.
func ImportArchive(ctx context.Context, s *Service, path string) (int, error) {
	ctx = s.context(ctx)
	done, err := s.lease(&ctx, "test")
	if err != nil {
		return 0, err
	}
	p, err := s.importArchive(ctx, path)
	return len(p.images), errors.Join(err, done(false))
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

// Redact is the text of an error as callers get it.
var Redact = redact
