// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestReadsEarlierHandovers: what an image of an earlier version leaves is understood
// whole, to the byte.
func TestReadsEarlierHandovers(t *testing.T) {
	files, err := filepath.Glob("testdata/*/handover.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no versions: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h := new(handover)
		if err := json.Unmarshal(b, h); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if again, err := json.Marshal(h); err != nil || string(again) != string(b) {
			t.Errorf("%s:\n%s became\n%s, %v", file, b, again, err)
		}
	}
}
