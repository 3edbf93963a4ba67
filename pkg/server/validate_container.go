// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"path/filepath"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/container"
)

func newContainer(r *cri.CreateContainerRequest) (container.NewContainer, error) {
	var f faults
	f.required("pod_sandbox_id", r.GetPodSandboxId())
	f.container(r.GetConfig())
	return container.NewContainer{Config: r.GetConfig(), Sandbox: r.GetSandboxConfig()}, f.err("create container")
}

func (f *faults) container(c *cri.ContainerConfig) {
	if c == nil {
		f.unless(false, "config is required")
		return
	}
	f.name("config.metadata.name", c.GetMetadata().GetName())
	f.required("config.image.image", c.GetImage().GetImage())
	f.logPath(c.GetLogPath())
	f.unless(c.GetWorkingDir() == "" || filepath.IsAbs(c.GetWorkingDir()), "config.working_dir %q is not absolute", c.GetWorkingDir())
	for i, e := range c.GetEnvs() {
		f.unless(e.GetKey() != "" && !strings.ContainsAny(e.GetKey(), "=\x00"), "config.envs[%d].key %q is no variable name", i, e.GetKey())
		f.unless(!strings.Contains(string(e.GetValue()), "\x00"), "config.envs[%d].value has a zero byte in it", i)
	}
	for i, m := range c.GetMounts() {
		f.mount(fmt.Sprintf("config.mounts[%d]", i), m)
	}
	for i, d := range c.GetDevices() {
		field := fmt.Sprintf("config.devices[%d]", i)
		f.unless(filepath.IsAbs(d.GetHostPath()), "%s.host_path %q is not absolute", field, d.GetHostPath())
		f.unless(strings.Trim(d.GetPermissions(), "rwm") == "", "%s.permissions %q are not of r, w and m", field, d.GetPermissions())
	}
	for i, d := range c.GetCDIDevices() {
		f.required(fmt.Sprintf("config.CDI_devices[%d].name", i), d.GetName())
	}
	f.unless(known(cri.Signal_name, c.GetStopSignal()), "config.stop_signal %d is unknown", c.GetStopSignal())
	f.containerSecurity(c.GetLinux().GetSecurityContext())
	f.resources(c.GetLinux().GetResources())
}

// logPath is relative to the pod's log directory, which it must not leave.
func (f *faults) logPath(p string) {
	if p == "" {
		return
	}
	f.unless(!filepath.IsAbs(p), "config.log_path %q is not relative to the pod's log_directory", p)
	f.unless(filepath.IsAbs(p) || filepath.IsLocal(p) && filepath.Clean(p) != ".", "config.log_path %q leaves the pod's log_directory", p)
}

func (f *faults) mount(field string, m *cri.Mount) {
	f.unless(filepath.IsAbs(m.GetContainerPath()), "%s.container_path %q is not absolute", field, m.GetContainerPath())
	f.unless(known(cri.MountPropagation_name, m.GetPropagation()), "%s.propagation %d is unknown", field, m.GetPropagation())
	if m.GetRecursiveReadOnly() {
		f.unless(m.GetReadonly(), "%s.recursive_read_only needs readonly", field)
		f.unless(m.GetPropagation() == cri.MountPropagation_PROPAGATION_PRIVATE, "%s.recursive_read_only needs private propagation", field)
	}
	if m.GetImage() != nil {
		f.required(field+".image.image", m.GetImage().GetImage())
		f.unless(m.GetReadonly(), "%s.readonly must be set: images cannot be written to", field)
		f.unless(m.GetHostPath() == "", "%s has both a host_path and an image", field)
		sub := m.GetImageSubPath()
		f.unless(sub == "" || filepath.IsLocal(sub), "%s.image_sub_path %q leaves the image", field, sub)
		return
	}
	f.unless(filepath.IsAbs(m.GetHostPath()), "%s.host_path %q is not absolute", field, m.GetHostPath())
	f.unless(m.GetImageSubPath() == "", "%s.image_sub_path needs an image", field)
}

func (f *faults) containerSecurity(c *cri.LinuxContainerSecurityContext) {
	user := c.GetRunAsUser() != nil || c.GetRunAsUsername() != ""
	f.unless(c.GetRunAsGroup() == nil || user, "run_as_group needs run_as_user or run_as_username")
	f.unless(c.GetRunAsUser() == nil || c.GetRunAsUsername() == "", "run_as_user and run_as_username exclude each other")
	f.id("run_as_user", c.GetRunAsUser())
	f.id("run_as_group", c.GetRunAsGroup())
	for _, gid := range c.GetSupplementalGroups() {
		f.id("supplemental_groups", &cri.Int64Value{Value: gid})
	}
	n := c.GetNamespaceOptions()
	f.namespaces(n)
	f.unless(n.GetPid() != cri.NamespaceMode_TARGET || n.GetTargetId() != "", "namespace_options.pid TARGET needs a target_id")
	f.unless(n.GetNetwork() != cri.NamespaceMode_TARGET && n.GetIpc() != cri.NamespaceMode_TARGET, "only pid namespaces can be a TARGET's")
}

// resources refuses what no kernel takes; -1 stands for no limit, 0 for none
// given.
func (f *faults) resources(r *cri.LinuxContainerResources) {
	for _, v := range []struct {
		field string
		value int64
		least int64
	}{
		{"cpu_period", r.GetCpuPeriod(), 0},
		{"cpu_quota", r.GetCpuQuota(), -1},
		{"cpu_shares", r.GetCpuShares(), 0},
		{"memory_limit_in_bytes", r.GetMemoryLimitInBytes(), -1},
		{"memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), -1},
	} {
		f.unless(v.value >= v.least, "resources.%s %d is less than %d", v.field, v.value, v.least)
	}
	adj := r.GetOomScoreAdj()
	f.unless(adj >= -1000 && adj <= 1000, "resources.oom_score_adj %d is not within -1000 and 1000", adj)
}

func newResources(r *cri.UpdateContainerResourcesRequest) (*cri.LinuxContainerResources, error) {
	var f faults
	f.required("container_id", r.GetContainerId())
	f.unless(r.GetLinux() != nil, "linux resources are required")
	f.resources(r.GetLinux())
	return r.GetLinux(), f.err("update container resources")
}

func checkPodResources(r *cri.UpdatePodSandboxResourcesRequest) error {
	var f faults
	f.required("pod_sandbox_id", r.GetPodSandboxId())
	f.resources(r.GetOverhead())
	f.resources(r.GetResources())
	return f.err("update pod sandbox resources")
}
