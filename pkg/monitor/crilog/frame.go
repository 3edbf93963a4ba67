// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"bytes"
	"time"
)

const (
	maxLine   = 16 << 10 // bytes of one log line's content; longer lines are split into P parts
	stampForm = "2006-01-02T15:04:05.000000000Z"
	lineExtra = len(stampForm) + len(" stdout F ") + 1 // what framing adds to a line
)

// linePrefix is "TIME STREAM ", the beginning of every line of one batch.
func linePrefix(dst []byte, at time.Time, stream string) []byte {
	dst = at.UTC().AppendFormat(dst, stampForm)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	return append(dst, ' ')
}

// frame appends data to dst as CRI log lines, as far as whole lines fit into
// dst's capacity, and returns how much of data it used. What is left of data is
// either for the next call, with room again, or a tail of at most maxLine bytes
// that has no newline yet: more says which.
//
// A line becomes one F record when it has at most maxLine bytes, else P records
// of maxLine bytes and an F record with the rest. Appending the output of
// several calls is the output of one call with room for all.
func frame(dst, data, prefix []byte) (out []byte, used int, more bool) {
	for {
		rest := data[used:]
		window := rest[:min(len(rest), maxLine+1)]
		n := bytes.IndexByte(window, '\n')
		tag, eat := byte('F'), n+1
		if n < 0 {
			if len(window) <= maxLine {
				return dst, used, false
			}
			n, tag, eat = maxLine, 'P', maxLine
		}
		if len(dst)+len(prefix)+n+3 > cap(dst) {
			return dst, used, true
		}
		dst = appendLine(dst, prefix, tag, rest[:n])
		used += eat
	}
}

func appendLine(dst, prefix []byte, tag byte, line []byte) []byte {
	dst = append(dst, prefix...)
	dst = append(dst, tag, ' ')
	dst = append(dst, line...)
	return append(dst, '\n')
}
