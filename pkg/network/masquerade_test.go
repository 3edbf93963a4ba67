// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/network"
)

// TestNoMasqueradingIsSaidOnce: pods work without the rule, and the log says once what is missing.
func TestNoMasqueradingIsSaidOnce(t *testing.T) {
	needPlugins(t)
	n := newNode(t, withDefault, func(o *network.Options) { o.Default.Table = strings.Repeat("x", 400) }) // longer than the kernel takes
	t.Cleanup(func() { _ = n.RemoveDefaultNetwork(t.Context()) })
	for _, id := range []string{"one", "two", "three"} {
		_, err := n.Add(t.Context(), n.pod(id))
		must(t, err)
	}
	if said := n.logged("no masquerading"); said != 1 {
		t.Errorf("said %d times:\n%s", said, n.log)
	}
}
