// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestMeasure(t *testing.T) {
	shares, err := measure(strings.NewReader(`mode: atomic
` + module + `pkg/a/x.go:1.2,3.4 3 0
` + module + `pkg/a/y.go:1.2,3.4 1 0
` + module + `pkg/b/z.go:1.2,3.4 7 0
` + module + `pkg/b/w.go:5.2,6.4 0 1
` + module + `pkg/a/x.go:1.2,3.4 3 12
` + module + `pkg/a/x.go:1.2,3.4 3 0
`))
	if want := map[string]float64{"pkg/a": 75, "pkg/b": 0}; err != nil || !maps.Equal(shares, want) {
		t.Errorf("got %v, %v", shares, err)
	}
	if _, err := measure(strings.NewReader("pkg/a/x.go:1.2,3.4 many 0\n")); err == nil {
		t.Error("a line of no number was read")
	}
}

func TestCompare(t *testing.T) {
	shares := map[string]float64{"pkg/a": 80.9, "pkg/b": 79.9, "pkg/c": 100}
	floors, version, err := parse(format(shares, 2))
	if want := map[string]int{"pkg/a": 80, "pkg/b": 79, "pkg/c": 100}; err != nil || version != 2 || !maps.Equal(floors, want) {
		t.Fatalf("floors %v, cgroup v%d, %v", floors, version, err)
	}
	if faults := compare(shares, floors); len(faults) > 0 {
		t.Errorf("what was just measured is wrong: %q", faults)
	}
	delete(floors, "pkg/a")
	floors["pkg/b"], floors["pkg/c"], floors["pkg/gone"] = 83, 103, 1
	want := []string{
		"pkg/a has no floor: make cover-floors",
		"pkg/b fell to 79.9%, its floor is 83% less 3",
		"pkg/gone has a floor and no statements: make cover-floors",
	}
	if faults := compare(shares, floors); !slices.Equal(faults, want) {
		t.Errorf("got %q", faults)
	}
	if _, _, err := parse("pkg/a many\n"); err == nil {
		t.Error("a floor of no number was read")
	}
}
