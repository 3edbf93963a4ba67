// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const here = "oci"

// fieldOwners says for each message which field is whose: "oci" is honoured or refused here, another word names the
// package that does. A field of a new cri-api version is in no list, and fails the test below until someone owns it.
func fieldOwners() map[string]map[string]string {
	return map[string]map[string]string{
		"ContainerConfig": {
			here:                            "metadata command args working_dir envs mounts devices annotations tty linux windows CDI_devices stop_signal stdin stdin_once",
			"image, for the rootfs":         "image",
			"state, kept and returned":      "labels",
			"monitor, which writes the log": "log_path",
		},
		"ContainerMetadata":       {here: "name", "state, the identity of the record": "attempt"},
		"KeyValue":                {here: "key value"},
		"Mount":                   {here: "container_path host_path readonly propagation uidMappings gidMappings recursive_read_only image image_sub_path mount_options", "container, which calls Relabel": "selinux_relabel"},
		"ImageSpec":               {here: "image", "image": "annotations user_specified_image runtime_handler", "container, for statuses": "image_ref"},
		"Device":                  {here: "container_path host_path permissions"},
		"CDIDevice":               {here: "name"},
		"LinuxContainerConfig":    {here: "resources security_context"},
		"LinuxContainerResources": {here: "cpu_period cpu_quota cpu_shares memory_limit_in_bytes oom_score_adj cpuset_cpus cpuset_mems hugepage_limits unified memory_swap_limit_in_bytes"},
		"HugepageLimit":           {here: "page_size limit"},
		"LinuxContainerSecurityContext": {
			here: "capabilities privileged namespace_options run_as_user run_as_group run_as_username readonly_rootfs supplemental_groups supplemental_groups_policy no_new_privs masked_paths readonly_paths seccomp apparmor apparmor_profile seccomp_profile_path selinux_options",
		},
		"SELinuxOption":   {"oci/confine, NewLabels": "user role type level"},
		"Capability":      {here: "add_capabilities drop_capabilities add_ambient_capabilities"},
		"NamespaceOption": {here: "network pid ipc userns_options target_id"},
		"UserNamespace":   {here: "mode uids gids"},
		"IDMapping":       {here: "host_id container_id length"},
		"Int64Value":      {here: "value"},
		"SecurityProfile": {here: "profile_type localhost_ref"},
		"PodSandboxConfig": {
			here:                                "metadata hostname log_directory annotations linux windows",
			"network":                           "port_mappings",
			"sandbox, which writes resolv.conf": "dns_config",
			"state, kept and returned":          "labels",
		},
		"PodSandboxMetadata":    {here: "name uid namespace", "state, the identity of the record": "attempt"},
		"LinuxPodSandboxConfig": {here: "cgroup_parent security_context sysctls resources", "nri": "overhead"},
		"LinuxSandboxSecurityContext": {
			here: "namespace_options run_as_user run_as_group readonly_rootfs supplemental_groups supplemental_groups_policy privileged seccomp apparmor seccomp_profile_path selinux_options",
		},
		"DNSConfig":   {"sandbox, which writes resolv.conf": "servers searches options"},
		"PortMapping": {"network": "protocol container_port host_port host_ip"},
	}
}

func TestEveryFieldHasAnOwner(t *testing.T) {
	owners, seen := fieldOwners(), map[string]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		name := string(m.Name())
		if seen[name] || m.IsMapEntry() || strings.HasPrefix(name, "Windows") {
			return
		}
		seen[name] = true
		owned := map[string]bool{}
		for _, list := range owners[name] {
			for field := range strings.FieldsSeq(list) {
				owned[field] = true
			}
		}
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if !owned[string(f.Name())] {
				t.Errorf("%s.%s: honoured, refused or owned by nobody", name, f.Name())
			}
			delete(owned, string(f.Name()))
			if f.Message() != nil {
				walk(f.Message())
			}
		}
		for field := range owned {
			t.Errorf("%s.%s: owned, but there is no such field", name, field)
		}
	}
	walk((&cri.ContainerConfig{}).ProtoReflect().Descriptor())
	walk((&cri.PodSandboxConfig{}).ProtoReflect().Descriptor())
	for name := range owners {
		if !seen[name] {
			t.Errorf("%s: owned, but not reachable from a config", name)
		}
	}
}
