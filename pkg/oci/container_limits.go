// SPDX-License-Identifier: Apache-2.0

package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-shim/cri-shim/pkg/oci/limits"
)

// resources sets the limits of a new container.
func (c *container) resources() error {
	r := c.in.Config.GetLinux().GetResources()
	if err := limits.Update(c.spec, r, c.in.Host.Facts); err != nil {
		return err
	}
	c.tasks()
	c.spec.Process.OOMScoreAdj = limits.OOMScoreAdj(r, c.in.Host.Facts)
	return nil
}

// tasks says that there is no limit of processes: systemd would give the container's scope its own default, a part of
// what the machine allows. The pod's cgroup has the limit that the kubelet wants.
func (c *container) tasks() {
	r := c.spec.Linux.Resources
	if _, set := r.Unified["pids.max"]; set || !c.in.Host.Systemd {
		return
	}
	none := int64(-1)
	r.Pids = &specs.LinuxPids{Limit: &none}
}
