// SPDX-License-Identifier: Apache-2.0

package program

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Find returns the absolute path of a program in PATH. fs.ErrNotExist, naming it, when there is none.
func Find(name string) (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && filepath.IsAbs(path) && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s in PATH: %w", name, fs.ErrNotExist)
}
