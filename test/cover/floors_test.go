// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"slices"
	"testing"
)

func TestMeasured(t *testing.T) {
	tests := []struct {
		line  string
		pkg   string
		share float64
	}{
		{"ok  \t" + module + "pkg/sys\t1.234s\tcoverage: 83.1% of statements", "pkg/sys", 83.1},
		{"ok  \t" + module + "pkg/sys\t(cached)\tcoverage: 100.0% of statements", "pkg/sys", 100},
		{"\t" + module + "cmd/pause\t\tcoverage: 0.0% of statements", "cmd/pause", 0},
		{"ok  \t" + module + "test/linear\t1.2s\tcoverage: 1.0% of statements", "", 0},
		{"ok  \t" + module + "pkg/x\t1.2s\tcoverage: [no statements]", "", 0},
		{"?   \t" + module + "pkg/x\t[no test files]", "", 0},
		{"FAIL\t" + module + "pkg/x\t1.2s", "", 0},
		{"coverage: 1.0% of statements", "", 0},
		{"", "", 0},
	}
	for _, tt := range tests {
		if pkg, share, ok := measured(tt.line); pkg != tt.pkg || share != tt.share || ok != (tt.pkg != "") {
			t.Errorf("%q: got %q, %v, %v", tt.line, pkg, share, ok)
		}
	}
}

func TestCompare(t *testing.T) {
	shares := map[string]float64{"pkg/a": 80.9, "pkg/b": 79.9, "pkg/c": 100}
	floors, err := parse(format(shares))
	if want := map[string]int{"pkg/a": 80, "pkg/b": 79, "pkg/c": 100}; err != nil || !maps.Equal(floors, want) {
		t.Fatalf("floors %v, %v", floors, err)
	}
	if faults := compare(shares, floors); len(faults) > 0 {
		t.Errorf("what was just measured is wrong: %q", faults)
	}
	delete(floors, "pkg/a")
	floors["pkg/b"], floors["pkg/gone"] = 80, 1
	want := []string{
		"pkg/a has no floor: make cover-floors",
		"pkg/b fell to 79.9%, its floor is 80%",
		"pkg/gone has a floor and no tests: make cover-floors",
	}
	if faults := compare(shares, floors); !slices.Equal(faults, want) {
		t.Errorf("got %q", faults)
	}
	if _, err := parse("pkg/a many\n"); err == nil {
		t.Error("a floor of no number was read")
	}
}
