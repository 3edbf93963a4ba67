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

// boot is the file that says which boot of the machine the records are from. It
// is written as records are, which makes it the one to try a disk with.
type boot struct{ path, id string }

func bootFile(l Layout, id string) boot { return boot{filepath.Join(l.Records(), "boot"), id} }

// record compares the boot id with the one on file and files the new one.
func (b boot) record() (rebooted bool, err error) {
	old, err := os.ReadFile(b.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read boot id: %w", err)
	}
	last := strings.TrimSpace(string(old))
	if last == b.id {
		return false, nil
	}
	return last != "", b.write()
}

func (b boot) write() error {
	if err := replaceFile(b.path, []byte(b.id+"\n")); err != nil {
		return fmt.Errorf("write boot id: %w", err)
	}
	return nil
}
