// SPDX-License-Identifier: Apache-2.0

package monitornode

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// LogLine is a parsed line of a CRI log.
type LogLine struct{ Stream, Tag, Text string }

// ReadLog parses a log, whose lines must be whole.
func ReadLog(t testing.TB, path string) []LogLine {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []LogLine
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("log line %d malformed: %.80q", len(lines), line)
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			t.Fatalf("log line %d: %v", len(lines), err)
		}
		lines = append(lines, LogLine{f[1], f[2], f[3]})
	}
	return lines
}

// Text is the content of one stream of a log.
func Text(lines []LogLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if l.Stream != stream {
			continue
		}
		b.WriteString(l.Text)
		if l.Tag == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// ReadAll reads to the end.
func ReadAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// CheckCounter compares a log with what beCounter writes.
func CheckCounter(t testing.TB, lines []LogLine, n int) {
	t.Helper()
	got := strings.Split(strings.TrimSuffix(Text(lines, "stdout"), "\n"), "\n")
	for i, line := range got {
		if want := fmt.Sprintf("line %08d %s", i, strings.Repeat("x", i%97)); line != want {
			t.Fatalf("line %d of %d is %.60q, want %.60q", i, len(got), line, want)
		}
	}
	if len(got) != n {
		t.Fatalf("%d lines, want %d", len(got), n)
	}
}

// EndCounter tells a counter to end and returns how many lines it wrote.
func EndCounter(t testing.TB, gate string) int {
	t.Helper()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	Eventually(t, "the counter to end", func() bool {
		b, _ := os.ReadFile(gate + ".count")
		n, _ = strconv.Atoi(string(b))
		return n > 0
	})
	return n
}
