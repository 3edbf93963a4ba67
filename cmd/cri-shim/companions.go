// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// companion finds a program that belongs to cri-shim: where the configuration
// says, else beside cri-shim itself, else in PATH.
func companion(configured, name string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	own, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	beside := filepath.Join(filepath.Dir(own), name)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: not beside %s and not in PATH", name, own)
	}
	return filepath.Abs(found)
}

// pluginDirs are where CNI plugins are looked for: as configured, else beside
// cri-shim first, then where distributions put them.
func pluginDirs(configured []string) []string {
	if len(configured) > 0 {
		return configured
	}
	dirs := []string{"/opt/cni/bin", "/usr/lib/cni"}
	if own, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Join(filepath.Dir(own), "cni")}, dirs...)
	}
	return dirs
}
