// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestMakeFIFOKeepsContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	for range 2 {
		if err := sys.MakeFIFO(path, os.Geteuid(), os.Getegid()); err != nil {
			t.Fatal(err)
		}
	}
	w, err := sys.OpenFIFO(path, unix.O_RDWR, true)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w)
	if _, err := unix.Write(w, []byte("four")); err != nil {
		t.Fatal(err)
	}
	r, err := sys.OpenFIFO(path, unix.O_RDONLY, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(r)
	if n, err := sys.Readable(r); err != nil || n != 4 {
		t.Errorf("readable %d, %v", n, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sys.MakeFIFO(file, 0, 0); !errors.Is(err, unix.EEXIST) {
		t.Errorf("in place of a file: %v", err)
	}
}
