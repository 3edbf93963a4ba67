// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

// What a request says of the pod counts, but for what was made with the pod.
func TestPodConfig(t *testing.T) {
	o := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, UsernsOptions: &cri.UserNamespace{Uids: []*cri.IDMapping{{HostId: 7, Length: 9}}}}
	recorded := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "web"}, Hostname: "web", LogDirectory: "/old", Annotations: map[string]string{"a": "old"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/pod1",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: o, SelinuxOptions: &cri.SELinuxOption{Level: "s0:c1"}},
		},
	}
	before := proto.Clone(recorded)
	for name, c := range map[string]struct {
		asked  *cri.PodSandboxConfig
		change func(want *cri.PodSandboxConfig)
	}{
		"nothing said":  {nil, func(*cri.PodSandboxConfig) {}},
		"metadata only": {&cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "other"}}, func(*cri.PodSandboxConfig) {}},
		"logs":          {&cri.PodSandboxConfig{LogDirectory: "/new"}, func(want *cri.PodSandboxConfig) { want.LogDirectory = "/new" }},
		"annotations": {&cri.PodSandboxConfig{Annotations: map[string]string{"b": "new"}}, func(want *cri.PodSandboxConfig) {
			want.Annotations = map[string]string{"b": "new"}
		}},
		"privileged": {
			&cri.PodSandboxConfig{Hostname: "x", Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/x", SecurityContext: &cri.LinuxSandboxSecurityContext{
				Privileged: true, NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}, SelinuxOptions: &cri.SELinuxOption{Level: "s0"},
			}}},
			func(want *cri.PodSandboxConfig) { want.Linux.SecurityContext.Privileged = true },
		},
	} {
		want := proto.Clone(recorded).(*cri.PodSandboxConfig)
		c.change(want)
		if got := oci.PodConfig(recorded, c.asked); !proto.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if !proto.Equal(recorded, before) {
		t.Errorf("the record became %v", recorded)
	}
	bare := oci.PodConfig(&cri.PodSandboxConfig{}, &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{Privileged: true}}})
	if !bare.GetLinux().GetSecurityContext().GetPrivileged() {
		t.Error("a pod without a security context stays without")
	}
}
