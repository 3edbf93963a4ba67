// SPDX-License-Identifier: Apache-2.0

package crilog_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/monitor/crilog"
)

var frameTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func TestFrame(t *testing.T) {
	const p = "2026-01-02T03:04:05.000000006Z stdout "
	full := strings.Repeat("a", crilog.MaxLine)
	tests := []struct {
		name, in, want string
		rest           int
	}{
		{"nothing", "", "", 0},
		{"a line", "x\n", p + "F x\n", 0},
		{"empty lines", "\n\n", p + "F \n" + p + "F \n", 0},
		{"a tail", "x\nyz", p + "F x\n", 2},
		{"exactly full", full + "\n", p + "F " + full + "\n", 0},
		{"full, not known yet", full, "", crilog.MaxLine},
		{"one more", full + "b\n", p + "P " + full + "\n" + p + "F b\n", 0},
		{"one more, a tail", full + "b", p + "P " + full + "\n", 1},
		{"binary", "\x00\xff\r\n", p + "F \x00\xff\r\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, used, more := crilog.Frame(make([]byte, 0, 1<<20), []byte(tt.in), crilog.LinePrefix(nil, frameTime, "stdout"))
			if string(got) != tt.want || len(tt.in)-used != tt.rest || more {
				t.Errorf("got %.200q, rest %d, more %v", got, len(tt.in)-used, more)
			}
		})
	}
}

// frameAll frames in pieces with the given room.
func frameAll(data []byte, room int) (out, rest []byte) {
	prefix := crilog.LinePrefix(nil, frameTime, "stderr")
	for {
		part, used, more := crilog.Frame(make([]byte, 0, room), data, prefix)
		out, data = append(out, part...), data[used:]
		if !more {
			return out, data
		}
	}
}

// unframe gives back what was framed.
func unframe(out []byte) []byte {
	var data []byte
	for line := range bytes.Lines(out) {
		f := bytes.SplitN(line, []byte(" "), 4)
		text := bytes.TrimSuffix(f[3], []byte("\n"))
		data = append(data, text...)
		if string(f[2]) == "F" {
			data = append(data, '\n')
		}
	}
	return data
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("a\nb"), uint16(3))
	f.Add([]byte("x"), uint16(40000)) // long inputs are spelled short: the fuzzer takes minutes to shorten one itself
	f.Add([]byte("\n\n\n"), uint16(0))
	f.Fuzz(func(t *testing.T, data []byte, repeat uint16) {
		data = data[:min(len(data), 4<<10)]
		data = bytes.Repeat(data, min(1+int(repeat), 4*crilog.ReadMax/max(1, len(data)))) // a few reads
		whole, rest := frameAll(data, 3*len(data)+64*bytes.Count(data, []byte("\n"))+1<<16)
		pieces, rest2 := frameAll(data, crilog.MaxLine+100)
		if !bytes.Equal(whole, pieces) || !bytes.Equal(rest, rest2) {
			t.Fatal("framing depends on the room")
		}
		if len(rest) > crilog.MaxLine || bytes.IndexByte(rest, '\n') >= 0 {
			t.Fatalf("tail of %d bytes", len(rest))
		}
		if !bytes.Equal(append(unframe(whole), rest...), data) {
			t.Fatal("content changed")
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	data := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 655)
	buf := make([]byte, 0, 128<<10)
	prefix := crilog.LinePrefix(nil, frameTime, "stdout")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			_, used, _ := crilog.Frame(buf[:0], rest, prefix)
			rest = rest[used:]
		}
	}
}
