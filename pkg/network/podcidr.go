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
// ipRanges capability as ranges, the default network as its subnets. They are kept on disk, as the kubelet sends
// them once, when it learns them, and not after a restart of ours. Setting none forgets them. ErrInvalidArgument: not a CIDR.
func (s *Service) SetPodCIDRs(cidrs []string) error {
	nets, err := prefixes(cidrs)
	if err != nil {
		return fmt.Errorf("set pod CIDRs: %w", err)
	}
	clean := make([]string, 0, len(nets))
	for _, n := range nets {
		clean = append(clean, n.String())
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	if slices.Equal(clean, s.PodCIDRs()) {
		return nil
	}
	if err := s.savePodCIDRs(clean); err != nil {
		return fmt.Errorf("set pod CIDRs: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
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

// savePodCIDRs replaces the file: a full disk, a kill and a power failure leave the old one or the new.
func (s *Service) savePodCIDRs(cidrs []string) error {
	raw, err := json.Marshal(cidrs)
	if err != nil {
		return err
	}
	path := s.path("podcidrs.json")
	next := path + ".next"
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return os.Rename(next, path)
}

// loadPodCIDRs goes on without what it can't parse, which would keep all pods from starting: the kubelet sends the
// ranges again when it starts itself. Until then pods get addresses as if it never had.
func (s *Service) loadPodCIDRs() error {
	raw, err := os.ReadFile(s.path("podcidrs.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod CIDRs: %w", err)
	}
	if err := json.Unmarshal(raw, &s.podCIDR); err != nil {
		s.log.Error("pod CIDRs lost until the kubelet starts again", "err", fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss))
		s.podCIDR = nil
	}
	return nil
}
