// SPDX-License-Identifier: Apache-2.0

package runc

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKeeps: state of a container is found whatever a runtime calls its files,
// and a runtime that never ran has none.
func TestKeeps(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"aaa/state.json", "bbb_sandbox:bbb.state", "pods/x"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]bool{"aaa": true, "bbb": true, "ccc": false} {
		if got := (Handler{Root: root}).keeps(id); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
	if (Handler{Root: filepath.Join(root, "none")}).keeps("aaa") {
		t.Error("a runtime that never ran keeps something")
	}
}
