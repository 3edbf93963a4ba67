// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"os"
	"path/filepath"
)

// replaceFile replaces a file of the root directory, for root only. Whenever the
// power fails, the old content or the new is there; once it returns, the new is.
// For that the content is flushed before the rename, and the directory after it.
// A path has one writer at a time. What a kill leaves beside it is overwritten.
func replaceFile(path string, data []byte) error {
	next := path + ".next"
	err := writeFlushed(next, data)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(next))
	}
	return flushDir(filepath.Dir(path))
}

func writeFlushed(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func flushDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func removeIfThere(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
