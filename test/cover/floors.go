// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

const header = `# SPDX-License-Identifier: Apache-2.0
# The share of each package's statements that unit tests reach, those of other packages included, in whole percent,
# rounded down; written by make cover-floors. No package falls more than 3 points below its floor: what depends on
# timing differs between runs. The first line tells the version of cgroups on the machine that it was measured on:
# another one has other tests left out.
`

// margin is by how many points a package may be below its floor: what depends on
// timing differs between runs.
const margin = 3

// cgroups is the name under which the table has the version of cgroups.
const cgroups = "cgroup"

// measure reads a profile of go test and returns the share of each package in percent. Each test binary has its own
// lines: a statement is reached if one of them reached it.
func measure(profile io.Reader) (map[string]float64, error) {
	type block struct {
		statements int
		reached    bool
	}
	blocks := map[string]block{}
	lines := bufio.NewScanner(profile)
	for lines.Scan() {
		f := strings.Fields(lines.Text()) // file.go:1.2,3.4 statements count
		if len(f) != 3 {
			continue // the mode
		}
		statements, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("read profile: line %q: %w", lines.Text(), err)
		}
		blocks[f[0]] = block{statements, blocks[f[0]].reached || f[2] != "0"}
	}
	all, reached := map[string]int{}, map[string]int{}
	for at, b := range blocks {
		file, _, _ := strings.Cut(strings.TrimPrefix(at, module), ":")
		pkg := path.Dir(file)
		all[pkg] += b.statements
		if b.reached {
			reached[pkg] += b.statements
		}
	}
	shares := map[string]float64{}
	for pkg, n := range all {
		if n > 0 {
			shares[pkg] = 100 * float64(reached[pkg]) / float64(n)
		}
	}
	return shares, lines.Err()
}

// format is the table of what was measured.
func format(shares map[string]float64, version int) string {
	var b strings.Builder
	b.WriteString(header)
	fmt.Fprintf(&b, "%s %d\n", cgroups, version)
	for _, pkg := range slices.Sorted(maps.Keys(shares)) {
		fmt.Fprintf(&b, "%s %d\n", pkg, int(math.Floor(shares[pkg])))
	}
	return b.String()
}

// parse reads what format wrote.
func parse(text string) (floors map[string]int, version int, err error) {
	floors = map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		pkg, number, _ := strings.Cut(line, " ")
		floor, err := strconv.Atoi(number)
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: line %q: %w", table, line, err)
		}
		floors[pkg] = floor
	}
	version = floors[cgroups]
	delete(floors, cgroups)
	return floors, version, nil
}

// compare says in one line each what is not as the table has it.
func compare(shares map[string]float64, floors map[string]int) []string {
	var faults []string
	for _, pkg := range slices.Sorted(maps.Keys(shares)) {
		floor, known := floors[pkg]
		switch share := shares[pkg]; {
		case !known:
			faults = append(faults, pkg+" has no floor: make cover-floors")
		case share < float64(floor-margin):
			faults = append(faults, fmt.Sprintf("%s fell to %.1f%%, its floor is %d%% less %d", pkg, share, floor, margin))
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(floors)) {
		if _, there := shares[pkg]; !there {
			faults = append(faults, pkg+" has a floor and no statements: make cover-floors")
		}
	}
	return faults
}
