// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodConfig is the configuration of a pod that a new container goes by: what
// the request for it says where that may have changed since the pod was made,
// and else the pod's record. A debug container may be privileged in a pod that
// was not, for one. Namespaces, cgroup and SELinux level are made and do not change.
func PodConfig(recorded, asked *cri.PodSandboxConfig) *cri.PodSandboxConfig {
	if asked == nil {
		return recorded
	}
	config := proto.Clone(recorded).(*cri.PodSandboxConfig)
	if asked.GetLogDirectory() != "" {
		config.LogDirectory = asked.GetLogDirectory()
	}
	if asked.GetAnnotations() != nil {
		config.Annotations = asked.GetAnnotations()
	}
	if security := asked.GetLinux().GetSecurityContext(); security != nil {
		made := recorded.GetLinux().GetSecurityContext()
		security = proto.Clone(security).(*cri.LinuxSandboxSecurityContext)
		security.NamespaceOptions, security.SelinuxOptions = made.GetNamespaceOptions(), made.GetSelinuxOptions()
		if config.Linux == nil {
			config.Linux = &cri.LinuxPodSandboxConfig{}
		}
		config.Linux.SecurityContext = security
	}
	return config
}
