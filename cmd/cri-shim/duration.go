// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a span of time that the configuration has as a string with units, "4h" or "1m30s", the way the kubelet
// and containerd have theirs; TOML itself knows none. A number counts nanoseconds, which is how version 0.1.0-dev printed
// its configuration.
type Duration time.Duration

// shortest is the least that makes sense for any key. What is below it was most likely a number meant as seconds.
const shortest = Duration(time.Millisecond)

// UnmarshalText reads what time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration such as \"90s\" or \"1h30m\"", text)
	}
	*d = Duration(parsed)
	return nil
}

// MarshalText writes the shortest form: "4h", not "4h0m0s".
func (d Duration) MarshalText() ([]byte, error) { //nolint:unparam // signature of encoding.TextMarshaler
	text := time.Duration(d).String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return []byte(text), nil
}
