// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestReadsEarlierVersions: records of each version are read whole; testdata has a
// folder for each version that wrote something else than the one before.
func TestReadsEarlierVersions(t *testing.T) {
	for kind, again := range map[string]func([]byte) ([]byte, error){
		"pods": func(b []byte) ([]byte, error) {
			p, err := decodePod(b)
			if err != nil {
				return nil, err
			}
			return encodePod(p)
		},
		"containers": func(b []byte) ([]byte, error) {
			c, err := decodeContainer(b)
			if err != nil {
				return nil, err
			}
			return encodeContainer(c)
		},
	} {
		files, err := filepath.Glob("testdata/*/records/" + kind + "/*.json")
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", kind, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			now, err := again(b)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			var was, is any
			if json.Unmarshal(b, &was) != nil || json.Unmarshal(now, &is) != nil {
				t.Fatal("no JSON")
			}
			for _, lost := range missing("", was, is) {
				t.Errorf("%s: %s", file, lost)
			}
		}
	}
}

// missing lists what was there and is not, or is something else.
func missing(at string, was, is any) (lost []string) {
	switch w := was.(type) {
	case map[string]any:
		m, _ := is.(map[string]any)
		for k, v := range w {
			lost = append(lost, missing(at+"."+k, v, m[k])...)
		}
	case []any:
		l, _ := is.([]any)
		for i, v := range w {
			var other any
			if i < len(l) {
				other = l[i]
			}
			lost = append(lost, missing(fmt.Sprintf("%s[%d]", at, i), v, other)...)
		}
	default:
		if was != is {
			lost = append(lost, fmt.Sprintf("%s was %v and is %v", at, was, is))
		}
	}
	return lost
}
