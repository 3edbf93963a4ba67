// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// recordBoot compares the boot id with the one on file and files the new one.
func recordBoot(l Layout, bootID string) (rebooted bool, err error) {
	path := filepath.Join(l.Records(), "boot")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read boot id: %w", err)
	}
	last := strings.TrimSpace(string(old))
	if last == bootID {
		return false, nil
	}
	if err := replaceFile(path, []byte(bootID+"\n")); err != nil {
		return false, fmt.Errorf("write boot id: %w", err)
	}
	return last != "", nil
}
