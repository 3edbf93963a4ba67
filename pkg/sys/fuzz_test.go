// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"strings"
	"testing"
)

// FuzzProcStat: whatever a program calls itself, its /proc/PID/stat is read or refused, and the name is no part of it.
func FuzzProcStat(f *testing.F) {
	raw, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	_, fields, _ := strings.Cut(string(raw), ")")
	for _, name := range []string{"sh", "", ") Z 1", "(((", "a b\nc", "\xff"} {
		f.Add(name, fields)
	}
	f.Add("x", " S 1")
	f.Fuzz(func(t *testing.T, name, fields string) {
		want, wantErr := parseProcStat([]byte("1 (x)" + fields))
		got, err := parseProcStat([]byte("1 (" + name + ")" + fields))
		if got != want || (err == nil) != (wantErr == nil) {
			t.Errorf("%+v, %v; with the name %q %+v, %v", want, wantErr, name, got, err)
		}
	})
}
