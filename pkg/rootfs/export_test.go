// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

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

// OnMount calls on before an overlay is mounted, which may change its options.
func OnMount(s *Service, on func(options []string) []string) {
	mounts := s.mount
	s.mount = func(m mount.Mount, target string) error {
		m.Options = on(m.Options)
		return mounts(m, target)
	}
}

// AgeSamples makes all that is known of directories old.
func AgeSamples(s *Service) {
	s.samples.mu.Lock()
	defer s.samples.mu.Unlock()
	for _, one := range s.samples.known {
		one.until = time.Time{}
	}
}
