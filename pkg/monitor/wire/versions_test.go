// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// TestReadsEarlierVersions: packets of each version mean what they meant, to the
// byte but for what nobody reads; testdata has a folder for each version that added some.
func TestReadsEarlierVersions(t *testing.T) {
	files, err := filepath.Glob("testdata/*/packets.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no versions: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			line = bytes.TrimSpace(line)
			p, err := wire.Decode(line)
			if err != nil {
				t.Errorf("%s: %s: %v", file, line, err)
				continue
			}
			line = bytes.Replace(line, []byte(`"runtime_log":"/run/c/log",`), nil, 1) // which no monitor ever read
			if again, err := p.Encode(); err != nil || !bytes.Equal(again, line) {
				t.Errorf("%s:\n%s became\n%s, %v", file, line, again, err)
			}
		}
	}
}
