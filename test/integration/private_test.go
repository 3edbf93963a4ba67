// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// TestOthersGetNothing walks all that the daemon keeps, with the eyes of another
// user of the node who knows every name (the ids of containers are in the table
// of mounts): nothing can be read, written, run or connected to. A container's
// files are among it, and so is what is setuid there.
func TestOthersGetNothing(t *testing.T) {
	d := nodetest.Start(t, nodetest.Preload(t))
	config := d.PodConfig("private")
	d.Run(t, d.Pod(t, config), nodetest.ContainerConfig("private", "sleep"), config)
	d.AwaitLog(t, "private", "sleeping")
	for _, path := range []string{d.Socket, filepath.Join(d.Dir, "root"), filepath.Join(d.Dir, "state")} {
		filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone since
			}
			info, err := os.Lstat(path)
			if err != nil || info.Mode().Type() == fs.ModeSymlink {
				return nil
			}
			mode := info.Mode()
			switch {
			case path == d.Layout().PauseRootFS():
				return fs.SkipDir // holds pause, which everybody may have
			case !mode.IsDir() && mode.Perm()&0o007 != 0, mode.IsDir() && mode.Perm()&0o006 != 0:
				t.Errorf("%s is %s", path, mode)
			case mode.IsDir() && mode.Perm()&0o001 == 0:
				return fs.SkipDir // there is no way in
			}
			return nil
		})
	}
}
