// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func (s *Service) bundle(id string) string     { return filepath.Join(s.bundles, id) }
func (s *Service) specFile(id string) string   { return filepath.Join(s.bundle(id), "config.json") }
func (s *Service) runtimeLog(id string) string { return filepath.Join(s.bundle(id), "runtime.log") }

// WriteBundle makes or replaces the bundle of id. Bundles live on tmpfs and
// are rebuilt from records after a reboot, so they are not flushed.
func (s *Service) WriteBundle(id string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write bundle: encode spec: %w", err)
	}
	if err := os.MkdirAll(s.bundle(id), 0o700); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	next := s.specFile(id) + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if err := os.Rename(next, s.specFile(id)); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// Spec reads the bundle's spec back. ErrNotFound when there is no bundle.
func (s *Service) Spec(id string) (*specs.Spec, error) {
	data, err := os.ReadFile(s.specFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read bundle of %s: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("read bundle of %s: %w", id, errors.Join(err, errdefs.ErrDataLoss))
	}
	return spec, nil
}

// RemoveBundle deletes the bundle; a missing one is fine.
func (s *Service) RemoveBundle(id string) error {
	if err := os.RemoveAll(s.bundle(id)); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}

// RemoveExecs deletes what commands that are no more left in the bundle: those
// of a daemon that died.
func (s *Service) RemoveExecs(id string) error {
	left, err := filepath.Glob(filepath.Join(s.bundle(id), execPrefix+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("remove execs from bundle: %w", err)
	}
	return nil
}

// BundleIDs lists the ids that have a bundle, for the search for orphans.
func (s *Service) BundleIDs() ([]string, error) {
	entries, err := os.ReadDir(s.bundles)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}
