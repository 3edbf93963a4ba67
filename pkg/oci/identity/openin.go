// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
)

// OpenIn returns an OpenFunc for the image, or the host, whose root is the directory root: symbolic links, "..", and
// magic links are resolved within it, and only regular files open.
func OpenIn(root string) OpenFunc {
	return func(path string) (io.ReadCloser, error) {
		handle, err := pathrs.OpenInRoot(root, path)
		if err != nil {
			return nil, err
		}
		defer handle.Close()
		fi, err := handle.Stat()
		if err != nil {
			return nil, err
		}
		// Anything else may block, or do something, when opened for reading.
		if !fi.Mode().IsRegular() {
			return nil, fmt.Errorf("open %s: not a regular file: %w", path, fs.ErrInvalid)
		}
		f, err := pathrs.Reopen(handle, os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
}

// OpenFunc opens a regular file of an image by its absolute path within it, and never one outside. A missing file is
// fs.ErrNotExist. OpenIn makes one for a directory.
type OpenFunc func(path string) (io.ReadCloser, error)
