// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/oci/limits"
	"github.com/cri-shim/cri-shim/pkg/oci/refusal"
)

const hostnameMax = 64 // bytes, of the kernel

// ValidatePod checks the parts of a pod's config that end up in specs, before anything is made for the pod. The error
// tells all that is wrong with them, and is ErrInvalidArgument. Network, DNS and logs have owners elsewhere. Pause
// checks it again, with what depends on the machine's files.
func ValidatePod(config *cri.PodSandboxConfig, host Host) error {
	sc := config.GetLinux().GetSecurityContext()
	var faults []error
	if len(config.GetHostname()) > hostnameMax {
		faults = append(faults, refusal.Invalid("hostname", "longer than %d bytes", hostnameMax))
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		faults = append(faults, refusal.Invalid("linux.security_context.run_as_group", "set without run_as_user"))
	}
	_, seccomp := confine.Profile(confine.SeccompField, sc.GetSeccomp(), sc.GetSeccompProfilePath())
	_, apparmor := confine.Profile(confine.AppArmorField, sc.GetApparmor(), "")
	return refusal.AllOf(append(faults,
		noWindows(config.GetWindows()),
		validateCgroupParent(config.GetLinux().GetCgroupParent()),
		identity.ValidateIDs(sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetSupplementalGroups()),
		identity.ValidateGroupsPolicy(sc.GetSupplementalGroupsPolicy()),
		validateNamespaces(sc.GetNamespaceOptions()),
		seccomp, apparmor,
		confine.ValidateSELinux(sc.GetSelinuxOptions()),
		validateSysctls(config.GetLinux().GetSysctls(), sc.GetNamespaceOptions()),
		limits.ValidatePod(config.GetLinux().GetOverhead(), config.GetLinux().GetResources(), host.Facts),
	)...)
}

// ValidateContainer checks what can be checked of a container's config before anything is made for it and without its
// pod. The error tells all that is wrong, and is ErrInvalidArgument. Container checks it again, with all that depends
// on the pod, the image and the machine's files.
func ValidateContainer(config *cri.ContainerConfig, host Host) error {
	sc := config.GetLinux().GetSecurityContext()
	_, _, signal := StopSignal(config, "")
	_, seccomp := confine.Profile(confine.SeccompField, sc.GetSeccomp(), sc.GetSeccompProfilePath())
	_, apparmor := confine.Profile(confine.AppArmorField, sc.GetApparmor(), sc.GetApparmorProfile())
	faults := []error{
		noWindows(config.GetWindows()), signal,
		validArgs("command", slices.Concat(config.GetCommand(), config.GetArgs())),
		validateEnvs(config.GetEnvs()),
		validateWorkingDir(config.GetWorkingDir()),
		identity.Validate(sc), confine.ValidateCapabilities(sc), seccomp, apparmor,
		confine.ValidateSELinux(sc.GetSelinuxOptions()),
		validatePaths("masked_paths", sc.GetMaskedPaths()),
		validatePaths("readonly_paths", sc.GetReadonlyPaths()),
		validateContainerNamespaces(sc.GetNamespaceOptions()),
		limits.ValidateNew(config.GetLinux().GetResources(), host.Facts),
	}
	for _, m := range config.GetMounts() {
		faults = append(faults, validateMount(fmt.Sprintf("mounts[%s]", m.GetContainerPath()), m))
	}
	for _, d := range config.GetDevices() {
		faults = append(faults, validateDevice(deviceField(d), d))
	}
	for i, d := range config.GetCDIDevices() {
		if d.GetName() == "" {
			faults = append(faults, refusal.Invalid(fmt.Sprintf("CDI_devices[%d].name", i), "no name"))
		}
	}
	return refusal.AllOf(faults...)
}

// FitsPod checks a container's config against that of its pod.
func FitsPod(config *cri.ContainerConfig, pod *cri.PodSandboxConfig) error {
	if config.GetLinux().GetSecurityContext().GetPrivileged() && !pod.GetLinux().GetSecurityContext().GetPrivileged() {
		return refusal.Invalid("linux.security_context.privileged", "the pod is not privileged")
	}
	return nil
}

// noWindows refuses a message for the other kind of node.
func noWindows(m proto.Message) error {
	if proto.Size(m) > 0 {
		return refusal.Invalid("windows", "this is a runtime for Linux")
	}
	return nil
}

func validateCgroupParent(parent string) error {
	if slices.Contains(strings.Split(parent, "/"), "..") || strings.ContainsRune(parent, 0) {
		return refusal.Invalid("linux.cgroup_parent", "%q is no path of a cgroup", parent)
	}
	return nil
}

func validateEnvs(envs []*cri.KeyValue) error {
	for _, kv := range envs {
		if kv.GetKey() == "" || strings.ContainsAny(kv.GetKey(), "=\x00") || slices.Contains(kv.GetValue(), 0) {
			return refusal.Invalid("envs", "%q is no name of a variable, or its value holds a NUL", kv.GetKey())
		}
	}
	return nil
}

func validateWorkingDir(dir string) error {
	if dir != "" && !path.IsAbs(dir) || strings.ContainsRune(dir, 0) {
		return refusal.Invalid("working_dir", "%q is not an absolute path", dir)
	}
	return nil
}

func validatePaths(field string, paths []string) error {
	for _, p := range paths {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return refusal.Invalid("linux.security_context."+field, "%q is not an absolute path", p)
		}
	}
	return nil
}
