// SPDX-License-Identifier: Apache-2.0

package harness

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
func (d *Daemon) podSlice(uid string) string {
	if d.Runtime == nil {
		return "" // not started: the test is about something else
	}
	r, err := d.Runtime.RuntimeConfig(context.Background(), &cri.RuntimeConfigRequest{})
	if err != nil || r.GetLinux().GetCgroupDriver() != cri.CgroupDriver_SYSTEMD {
		return ""
	}
	d.sliced = true
	return fmt.Sprintf("/%s.slice/%s-%s.slice", d.slice(), d.slice(), strings.ReplaceAll(uid, "-", "_"))
}

// slice is above all of this daemon's pods. A dash in its name would be a level.
func (d *Daemon) slice() string { return strings.ReplaceAll(filepath.Base(d.Dir), "-", "") }

// removeSlices ends the slices: nobody else does, empty as they are.
func (d *Daemon) removeSlices() error {
	if !d.sliced {
		return nil
	}
	if out, err := exec.Command("systemctl", "stop", d.slice()+".slice").CombinedOutput(); err != nil {
		return fmt.Errorf("stop %s.slice: %w: %s", d.slice(), err, out)
	}
	return nil
}
