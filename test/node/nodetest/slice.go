// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podSlice is a slice for a pod where the daemon's cgroups are systemd's, as
// kubelets make one; "" elsewhere. systemd makes it with the first scope in it.
func (n *Node) podSlice(uid string) string {
	if !n.Running() {
		return "" // not started: the test is about something else
	}
	r, err := n.Runtime.RuntimeConfig(context.Background(), &cri.RuntimeConfigRequest{})
	if err != nil || r.GetLinux().GetCgroupDriver() != cri.CgroupDriver_SYSTEMD {
		return ""
	}
	n.sliced = true
	return fmt.Sprintf("/%s.slice/%s-%s.slice", n.slice(), n.slice(), strings.ReplaceAll(uid, "-", "_"))
}

// slice is above all of this daemon's pods. A dash in its name would be a level.
func (n *Node) slice() string { return strings.ReplaceAll(filepath.Base(n.Dir), "-", "") }

// removeSlices ends the slices: nobody else does, empty as they are.
func (n *Node) removeSlices() error {
	if !n.sliced {
		return nil
	}
	if out, err := exec.Command("systemctl", "stop", n.slice()+".slice").CombinedOutput(); err != nil {
		return fmt.Errorf("stop %s.slice: %w: %s", n.slice(), err, out)
	}
	return nil
}
