// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// Another version of the pause program replaces the one before it, also one of
// the same size; the same one is left where it is.
func TestPauseIsInstalledByContent(t *testing.T) {
	layout := state.Layout{State: t.TempDir()}
	path := filepath.Join(layout.PauseRootFS(), "pause")
	install := func(program string) os.FileInfo {
		t.Helper()
		if err := New(Options{Layout: layout, Pause: []byte(program)}).installPause(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != program || info.Mode().Perm() != 0o555 {
			t.Errorf("installed %q, mode %v; want %q", got, info.Mode(), program)
		}
		return info
	}
	first := install("one")
	if !os.SameFile(first, install("one")) {
		t.Error("the same program was installed again")
	}
	install("two")
	install("three")
}
