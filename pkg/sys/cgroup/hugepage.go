// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// SetHugepageLimit limits the bytes in huge pages of one size, as [sys.HugepageName]
// names it, in those of the cgroup directories that control them: what is used,
// and what is reserved (Linux 5.7). Both generations of files are known. Without
// a controller nothing is limited.
func SetHugepageLimit(dirs []string, size string, limit uint64) error {
	for _, dir := range dirs {
		for _, name := range []string{"limit_in_bytes", "rsvd.limit_in_bytes", "max", "rsvd.max"} {
			err := writeExisting(filepath.Join(dir, "hugetlb."+size+"."+name), strconv.FormatUint(limit, 10))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func writeExisting(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
