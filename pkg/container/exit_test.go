// SPDX-License-Identifier: Apache-2.0

package container

import (
	"testing"

	"github.com/cri-shim/cri-shim/pkg/monitor"
)

// Every exit has a reason in the kubelet's words: a status adds none.
func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		exit   monitor.Exit
		code   int32
		reason string
	}{
		{monitor.Exit{}, 0, "Completed"},
		{monitor.Exit{Code: 2}, 2, "Error"},
		{monitor.Exit{Signal: 15}, 128 + 15, "Error"},
		{monitor.Exit{Signal: 9, OOM: true}, 128 + 9, "OOMKilled"},
		{monitor.Exit{Code: 1, OOM: true}, 1, "OOMKilled"},
		{monitor.Exit{Unknown: true}, unknownCode, "Unknown"},
	} {
		code, reason, message := exitStatus(c.exit)
		if code != c.code || reason != c.reason || (message != "") != c.exit.Unknown {
			t.Errorf("%+v: %d, %q, %q", c.exit, code, reason, message)
		}
	}
}
