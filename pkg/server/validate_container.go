// SPDX-License-Identifier: Apache-2.0

package server

import (
	"path/filepath"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
)

func newContainer(r *cri.CreateContainerRequest, host oci.Host) (container.NewContainer, error) {
	var f faults
	f.required("pod_sandbox_id", r.GetPodSandboxId())
	f.container(r.GetConfig(), host)
	f.logDirectory("sandbox_config.log_directory", r.GetSandboxConfig().GetLogDirectory())
	return container.NewContainer{Config: r.GetConfig(), Sandbox: r.GetSandboxConfig()}, f.err("create container")
}

// container checks what does not end up in specs.
func (f *faults) container(c *cri.ContainerConfig, host oci.Host) {
	if c == nil {
		f.unless(false, "config is required")
		return
	}
	f.required("config.metadata.name", c.GetMetadata().GetName())
	f.name("config.metadata.name", c.GetMetadata().GetName())
	f.required("config.image.image", c.GetImage().GetImage())
	f.logPath(c.GetLogPath())
	f.unmet(oci.ValidateContainer(c, host))
}

// logPath is relative to the pod's log directory, which it must not leave.
func (f *faults) logPath(p string) {
	if p == "" {
		return
	}
	f.unless(!filepath.IsAbs(p) && !strings.ContainsRune(p, 0), "config.log_path %q is not relative to the pod's log_directory", p)
	f.unless(filepath.IsAbs(p) || filepath.IsLocal(p) && filepath.Clean(p) != ".", "config.log_path %q leaves the pod's log_directory", p)
}

// newResources takes an update of nothing for what it is, as other runtimes do.
func newResources(r *cri.UpdateContainerResourcesRequest, host oci.Host) (*cri.LinuxContainerResources, error) {
	var f faults
	f.required("container_id", r.GetContainerId())
	f.unmet(limits.Validate(r.GetLinux(), host.Facts))
	if r.GetLinux() == nil {
		return &cri.LinuxContainerResources{}, f.err("update container resources")
	}
	return r.GetLinux(), f.err("update container resources")
}

func checkPodResources(r *cri.UpdatePodSandboxResourcesRequest, host oci.Host) error {
	var f faults
	f.required("pod_sandbox_id", r.GetPodSandboxId())
	f.unmet(limits.ValidatePod(r.GetOverhead(), r.GetResources(), host.Facts))
	return f.err("update pod sandbox resources")
}
