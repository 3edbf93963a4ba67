// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

func TestReplaces(t *testing.T) {
	for name, tt := range map[string]struct {
		binary, running *wire.Build
		want            bool
	}{
		"a monitor that says nothing":     {&wire.Build{ID: "a"}, nil, true},
		"one that says its version alone": {&wire.Build{ID: "a"}, &wire.Build{Version: "v1"}, true},
		"a binary that says nothing":      {nil, nil, false},
		"one that says its version":       {&wire.Build{Version: "v2"}, nil, false},
		"the same":                        {&wire.Build{ID: "a", Time: 5}, &wire.Build{ID: "a", Time: 4}, false},
		"newer":                           {&wire.Build{ID: "b", Time: 5}, &wire.Build{ID: "a", Time: 4}, true},
		"of the same source":              {&wire.Build{ID: "b", Time: 5}, &wire.Build{ID: "a", Time: 5}, true},
		"older":                           {&wire.Build{ID: "b", Time: 4}, &wire.Build{ID: "a", Time: 5}, false},
		"other, nobody knows which is":    {&wire.Build{ID: "b"}, &wire.Build{ID: "a", Time: 5}, true},
	} {
		if got := tt.binary.Replaces(tt.running); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
