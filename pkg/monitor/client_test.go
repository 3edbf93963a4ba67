// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/monitor"
)

func TestClientWithoutMonitor(t *testing.T) {
	c := monitor.NewClient(monitor.ClientOptions{Socket: t.TempDir() + "/none"})
	if err := c.Ready(); !errdefs.IsUnavailable(err) {
		t.Errorf("ready: %v", err)
	}
	if _, err := c.Launch(t.Context(), monitor.Launch{}); !errdefs.IsUnavailable(err) {
		t.Errorf("launch: %v", err)
	}
}
