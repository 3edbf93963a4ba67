// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/config"

	"github.com/cri-shim/cri-shim/pkg/sys"
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
	h.configured = config.ConfigureHosts(ctx, config.HostOptions{HostDir: config.HostDirFromRoot(configDir), Credentials: h.credentials})
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
func Walk(s *Service, walk func(ctx context.Context, path string, sofar func(sys.Usage)) (sys.Usage, error)) {
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
