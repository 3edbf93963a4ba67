// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// SetPodCIDRs takes the node's pod address ranges from UpdateRuntimeConfig. New pods get them: plugins with the
// ipRanges capability as ranges, the default network as its subnets. They are kept on disk, as the kubelet does not
// repeat them after a restart of ours. Setting none forgets them. ErrInvalidArgument: not a CIDR.
func (s *Service) SetPodCIDRs(cidrs []string) error {
	nets, err := prefixes(cidrs)
	if err != nil {
		return fmt.Errorf("set pod CIDRs: %w", err)
	}
	clean := make([]string, 0, len(nets))
	for _, n := range nets {
		clean = append(clean, n.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(clean, s.podCIDR) {
		return nil
	}
	raw, err := json.Marshal(clean)
	if err != nil {
		return fmt.Errorf("set pod CIDRs: %w", err)
	}
	path := s.path("podcidrs.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, raw, 0o600)); err != nil {
		return fmt.Errorf("set pod CIDRs: %w", err)
	}
	s.podCIDR = clean
	s.log.Info("pod CIDRs set", "cidrs", clean)
	return nil
}

// PodCIDRs returns what SetPodCIDRs was last given.
func (s *Service) PodCIDRs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.podCIDR
}

func (s *Service) loadPodCIDRs() error {
	raw, err := os.ReadFile(s.path("podcidrs.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod CIDRs: %w", err)
	}
	if err := json.Unmarshal(raw, &s.podCIDR); err != nil { // the kubelet has the truth, so not worth a stop
		s.log.Warn("kept pod CIDRs unreadable", "err", fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss))
		s.podCIDR = nil
	}
	return nil
}
