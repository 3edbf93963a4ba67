// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

const header = `# SPDX-License-Identifier: Apache-2.0
# The share of each package's statements that its own tests reach, in whole percent, rounded down; written by
# make cover-floors. No package falls below its floor.
`

// measured reads a line of go test -cover; ok is false for any line that tells no share of a package of the product.
func measured(line string) (pkg string, share float64, ok bool) {
	f := strings.Fields(line)
	at := slices.Index(f, "coverage:")
	if len(f) > 0 && f[0] == "ok" {
		f, at = f[1:], at-1
	}
	if at < 1 || at+1 >= len(f) || !strings.HasSuffix(f[at+1], "%") {
		return "", 0, false
	}
	pkg, ours := strings.CutPrefix(f[0], module)
	if !ours || !strings.HasPrefix(pkg, "pkg/") && !strings.HasPrefix(pkg, "cmd/") {
		return "", 0, false
	}
	share, err := strconv.ParseFloat(strings.TrimSuffix(f[at+1], "%"), 64)
	return pkg, share, err == nil
}

// format is the table of what was measured.
func format(shares map[string]float64) string {
	var b strings.Builder
	b.WriteString(header)
	for _, pkg := range slices.Sorted(maps.Keys(shares)) {
		fmt.Fprintf(&b, "%s %d\n", pkg, int(math.Floor(shares[pkg])))
	}
	return b.String()
}

// parse reads what format wrote.
func parse(text string) (map[string]int, error) {
	floors := map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		pkg, number, _ := strings.Cut(line, " ")
		floor, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("read %s: line %q: %w", table, line, err)
		}
		floors[pkg] = floor
	}
	return floors, nil
}

// compare says in one line each what is not as the table has it.
func compare(shares map[string]float64, floors map[string]int) []string {
	var faults []string
	for _, pkg := range slices.Sorted(maps.Keys(shares)) {
		floor, known := floors[pkg]
		switch share := shares[pkg]; {
		case !known:
			faults = append(faults, pkg+" has no floor: make cover-floors")
		case share < float64(floor):
			faults = append(faults, fmt.Sprintf("%s fell to %.1f%%, its floor is %d%%", pkg, share, floor))
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(floors)) {
		if _, there := shares[pkg]; !there {
			faults = append(faults, pkg+" has a floor and no tests: make cover-floors")
		}
	}
	return faults
}
