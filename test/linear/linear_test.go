// SPDX-License-Identifier: Apache-2.0

package linear_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/linear"
)

// recorder notes that a check failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()                   {}
func (r *recorder) Errorf(f string, a ...any) { r.failed = true; r.Logf(f, a...) }

// TestCheck tells linear from quadratic, by time and by memory.
func TestCheck(t *testing.T) {
	sink := 0
	for name, c := range map[string]struct {
		n    int
		run  func(n int) func()
		fail bool
	}{
		"linear": {40000, func(n int) func() {
			text := strings.Repeat("a b ", n)
			return func() { sink += len(strings.Fields(text)) }
		}, false},
		"sorted": {100000, func(n int) func() {
			return func() {
				all := make([]int, n)
				for i := range all {
					all[i] = i * 2654435761 % 1000003
				}
				slices.Sort(all)
				sink += all[0]
			}
		}, false},
		"quadratic time": {4000, func(n int) func() {
			return func() {
				var seen []int
				for i := range n {
					if !slices.Contains(seen, i) {
						seen = append(seen, i)
					}
				}
				sink += len(seen)
			}
		}, linear.Timed},
		"quadratic memory": {4000, func(n int) func() {
			return func() {
				text := ""
				for range n {
					text += "x"
				}
				sink += len(text)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			linear.Check(r, c.n, c.run)
			if r.failed != c.fail {
				t.Errorf("failed: %v", r.failed)
			}
		})
	}
}
