// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
)

// TestContainerRefuses: each case names the field in its error.
func TestContainerRefuses(t *testing.T) {
	mount := func(m *cri.Mount) func(*oci.ContainerInput) {
		return func(in *oci.ContainerInput) { in.Config.Mounts = []*cri.Mount{m} }
	}
	device := func(d *cri.Device) func(*oci.ContainerInput) {
		return func(in *oci.ContainerInput) { in.Config.Devices = []*cri.Device{d} }
	}
	resources := func(r *cri.LinuxContainerResources) func(*oci.ContainerInput) {
		return func(in *oci.ContainerInput) { in.Config.Linux.Resources = r }
	}
	seccomp := func(kind cri.SecurityProfile_ProfileType, ref string) func(*oci.ContainerInput) {
		return func(in *oci.ContainerInput) {
			security(in).Seccomp = &cri.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
		}
	}
	for _, c := range []struct {
		name, field string
		edit        func(*oci.ContainerInput)
	}{
		{"nothing to run", "command", func(in *oci.ContainerInput) { in.Image.Entrypoint, in.Image.Cmd = nil, nil }},
		{"NUL in argv", "command", func(in *oci.ContainerInput) { in.Config.Args = []string{"a\x00b"} }},
		{"env without name", "envs", func(in *oci.ContainerInput) { in.Config.Envs = []*cri.KeyValue{{Value: []byte("x")}} }},
		{"env name with =", "envs", func(in *oci.ContainerInput) { in.Config.Envs = []*cri.KeyValue{{Key: "A=B"}} }},
		{"windows", "windows", func(in *oci.ContainerInput) {
			in.Config.Windows = &cri.WindowsContainerConfig{Resources: &cri.WindowsContainerResources{CpuShares: 1}}
		}},
		{"stop signal", "stop_signal", func(in *oci.ContainerInput) { in.Config.StopSignal = 99 }},
		{"privileged in unprivileged pod", "privileged", func(in *oci.ContainerInput) { security(in).Privileged = true }},
		{"group without user", "run_as_group", func(in *oci.ContainerInput) { security(in).RunAsGroup = &cri.Int64Value{} }},
		{"user and name", "run_as_username", func(in *oci.ContainerInput) {
			security(in).RunAsUser, security(in).RunAsUsername = &cri.Int64Value{}, "root"
		}},
		{"negative user", "run_as_user", func(in *oci.ContainerInput) { security(in).RunAsUser = &cri.Int64Value{Value: -1} }},
		{"negative group", "supplemental_groups", func(in *oci.ContainerInput) { security(in).SupplementalGroups = []int64{1 << 31} }},
		{"groups policy", "supplemental_groups_policy", func(in *oci.ContainerInput) { security(in).SupplementalGroupsPolicy = 7 }},
		{"unknown capability", "add_capabilities", func(in *oci.ContainerInput) {
			security(in).Capabilities = &cri.Capability{AddCapabilities: []string{"FLY"}}
		}},
		{"unknown dropped", "drop_capabilities", func(in *oci.ContainerInput) {
			security(in).Capabilities = &cri.Capability{DropCapabilities: []string{"CAP_"}}
		}},
		{"capability not held", "capabilities", func(in *oci.ContainerInput) {
			in.Host.Capabilities = []string{"CAP_CHOWN"}
			security(in).Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_RESOURCE"}}
		}},
		{"masked path", "masked_paths", func(in *oci.ContainerInput) { security(in).MaskedPaths = []string{"proc"} }},
		{"readonly path", "readonly_paths", func(in *oci.ContainerInput) { security(in).ReadonlyPaths = []string{""} }},
		{"SELinux part", "selinux_options", func(in *oci.ContainerInput) { security(in).SelinuxOptions = &cri.SELinuxOption{Type: "a:b"} }},
		{"seccomp ref with default", "seccomp", seccomp(cri.SecurityProfile_RuntimeDefault, "x")},
		{"seccomp without ref", "seccomp", seccomp(cri.SecurityProfile_Localhost, "")},
		{"seccomp type", "seccomp", seccomp(9, "")},
		{"seccomp missing", "/profiles/none.json", func(in *oci.ContainerInput) { in.Host.SeccompRoot = "/profiles"; seccomp(2, "none.json")(in) }},
		{"seccomp escapes", "seccomp", seccomp(cri.SecurityProfile_Localhost, "../../etc/passwd")},
		{"seccomp broken", "/profiles/broken.json", seccomp(cri.SecurityProfile_Localhost, "/profiles/broken.json")},
		{"seccomp name", "seccomp", func(in *oci.ContainerInput) { security(in).SeccompProfilePath = "whatever" }},
		{"no seccomp here", "seccomp", func(in *oci.ContainerInput) { in.Host.Seccomp = false; seccomp(0, "")(in) }},
		{"no AppArmor here", "apparmor", func(in *oci.ContainerInput) { security(in).Apparmor = &cri.SecurityProfile{} }},
		{"AppArmor not loaded", "apparmor", func(in *oci.ContainerInput) {
			in.Host.AppArmor = true
			security(in).ApparmorProfile = "localhost/other"
		}},
		{"relative mount", "container_path", mount(&cri.Mount{ContainerPath: "data", HostPath: "/a"})},
		{"mount over root", "container_path", mount(&cri.Mount{ContainerPath: "/a/..", HostPath: "/a"})},
		{"relative source", "host_path", mount(&cri.Mount{ContainerPath: "/data", HostPath: "a"})},
		{"image and source", "host_path", mount(&cri.Mount{ContainerPath: "/data", HostPath: "/a", Image: &cri.ImageSpec{Image: "x"}})},
		{"sub path without image", "image_sub_path", mount(&cri.Mount{ContainerPath: "/data", HostPath: "/a", ImageSubPath: "x"})},
		{"image not mounted", "image", mount(&cri.Mount{ContainerPath: "/data", Image: &cri.ImageSpec{Image: "x"}})},
		{"rro without ro", "recursive_read_only", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/a", RecursiveReadOnly: true})},
		{"rro with propagation", "recursive_read_only", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/a", Readonly: true, RecursiveReadOnly: true, Propagation: 1})},
		{"half a mapping", "uidMappings", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/a", UidMappings: podMapping})},
		{"empty mapping", "uidMappings", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/a", UidMappings: podMapping, GidMappings: []*cri.IDMapping{{}}})},
		{"propagation", "propagation", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/a", Propagation: 5})},
		{"not shared", "propagation", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/slave", Propagation: 2})},
		{"not slave", "propagation", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/a", Propagation: 1})},
		{"mount option", "mount_options", mount(&cri.Mount{ContainerPath: "/d", HostPath: "/a", MountOptions: []string{"noexec", "suid,dev"}})},
		{"device missing", "devices", device(&cri.Device{ContainerPath: "/dev/x", HostPath: "/dev/none"})},
		{"device path", "container_path", device(&cri.Device{ContainerPath: "dev/x", HostPath: "/dev/fuse"})},
		{"device rights", "permissions", device(&cri.Device{ContainerPath: "/dev/x", HostPath: "/dev/fuse", Permissions: "rx"})},
		{"CDI device", "CDI_devices", func(in *oci.ContainerInput) {
			in.Config.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/gpu=missing"}}
		}},
		{"network alone", "network", func(in *oci.ContainerInput) { security(in).NamespaceOptions.Network = cri.NamespaceMode_CONTAINER }},
		{"host IPC in a pod without", "ipc", func(in *oci.ContainerInput) { security(in).NamespaceOptions.Ipc = cri.NamespaceMode_NODE }},
		{"target without id", "target_id", func(in *oci.ContainerInput) { security(in).NamespaceOptions.Pid = cri.NamespaceMode_TARGET }},
		{"id without target", "target_id", func(in *oci.ContainerInput) { security(in).NamespaceOptions.TargetId = "x" }},
		{"target gone", "target_id", func(in *oci.ContainerInput) {
			security(in).NamespaceOptions.Pid, security(in).NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, "x"
		}},
		{"pod namespace unknown", "network", func(in *oci.ContainerInput) { in.Namespaces.Network = "" }},
		{"other userns than the pod", "userns_options", func(in *oci.ContainerInput) {
			security(in).NamespaceOptions.UsernsOptions = &cri.UserNamespace{Uids: podMapping, Gids: podMapping}
		}},
		{"cpu period", "cpu_period", resources(&cri.LinuxContainerResources{CpuPeriod: 10})},
		{"cpu quota", "cpu_quota", resources(&cri.LinuxContainerResources{CpuQuota: -2})},
		{"cpu shares", "cpu_shares", resources(&cri.LinuxContainerResources{CpuShares: -1})},
		{"memory", "memory_limit_in_bytes", resources(&cri.LinuxContainerResources{MemoryLimitInBytes: -5})},
		{"swap below memory", "memory_swap_limit_in_bytes", resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 5})},
		{"swap without memory", "memory_swap_limit_in_bytes", resources(&cri.LinuxContainerResources{MemorySwapLimitInBytes: 1 << 20})},
		{"oom score", "oom_score_adj", resources(&cri.LinuxContainerResources{OomScoreAdj: 1001})},
		{"cpuset", "cpuset_cpus", resources(&cri.LinuxContainerResources{CpusetCpus: "3-1"})},
		{"mems", "cpuset_mems", resources(&cri.LinuxContainerResources{CpusetMems: "all"})},
		{"page size", "hugepage_limits", resources(&cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2M"}}})},
		{"unified escapes", "unified", resources(&cri.LinuxContainerResources{Unified: map[string]string{"../memory.max": "1"}})},
		{"unified on v1", "unified", func(in *oci.ContainerInput) {
			in.Host.CgroupV2 = false
			resources(&cri.LinuxContainerResources{Unified: map[string]string{"memory.max": "1"}})(in)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := testInput()
			c.edit(&in)
			_, err := oci.Container(in)
			refused(t, err)
			if !strings.Contains(err.Error(), c.field) && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("error %q does not name %s", err, c.field)
			}
		})
	}
}

func TestPauseRefuses(t *testing.T) {
	userns := func(u *cri.UserNamespace) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{UsernsOptions: u}
		}
	}
	for _, c := range []struct {
		name, field string
		edit        func(*cri.PodSandboxConfig)
	}{
		{"group without user", "run_as_group", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 1} }},
		{"long hostname", "hostname", func(c *cri.PodSandboxConfig) { c.Hostname = strings.Repeat("a", 65) }},
		{"sysctl", "sysctls[vm.swappiness]", func(c *cri.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} }},
		{"container userns", "userns_options", userns(&cri.UserNamespace{Mode: cri.NamespaceMode_CONTAINER})},
		{"target userns", "userns_options", userns(&cri.UserNamespace{Mode: cri.NamespaceMode_TARGET})},
		{"no mapping", "userns_options", userns(&cri.UserNamespace{})},
		{"two mappings", "userns_options", userns(&cri.UserNamespace{Uids: append(podMapping, podMapping...), Gids: podMapping})},
		{"root not mapped", "userns_options", userns(&cri.UserNamespace{Uids: []*cri.IDMapping{{ContainerId: 1, HostId: 5, Length: 5}}, Gids: podMapping})},
		{"wraps", "userns_options", userns(&cri.UserNamespace{Uids: []*cri.IDMapping{{HostId: 1<<32 - 1, Length: 5}}, Gids: podMapping})},
		{"pid target", "pid", func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET}
		}},
		{"windows", "windows", func(c *cri.PodSandboxConfig) {
			c.Windows = &cri.WindowsPodSandboxConfig{SecurityContext: &cri.WindowsSandboxSecurityContext{HostProcess: true}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := testPause()
			c.edit(in.Config)
			_, err := oci.Pause(in)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.field) {
				t.Errorf("error %v, want InvalidArgument that names %s", err, c.field)
			}
		})
	}
}

func TestValidateSysctls(t *testing.T) {
	host := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
	for key, want := range map[string]struct{ pod, node bool }{
		"net.ipv4.ip_forward":            {true, false},
		"net/ipv4/conf/eth0.1/rp_filter": {true, false},
		"kernel.shmmax":                  {true, false},
		"kernel/msgmax":                  {true, false},
		"fs.mqueue.msg_max":              {true, false},
		"kernel.domainname":              {true, false},
		"kernel.hostname":                {false, false},
		"kernel.panic":                   {false, false},
		"net":                            {false, false},
		"net..ipv4":                      {false, false},
		"net/../kernel/panic":            {false, false},
		"net.ipv4./../../kernel/panic":   {false, false},
		"":                               {false, false},
	} {
		if err := oci.ValidateSysctls(map[string]string{key: "1"}, nil); (err == nil) != want.pod {
			t.Errorf("%q in a pod: %v", key, err)
		}
		if err := oci.ValidateSysctls(map[string]string{key: "1"}, host); (err == nil) != want.node {
			t.Errorf("%q in the node's namespaces: %v", key, err)
		}
	}
	for value, ok := range map[string]bool{"1": true, "1\n": true, "32000 1024\t500\n": true, "": true, "1\x00": false} {
		if err := oci.ValidateSysctls(map[string]string{"net.ipv4.ip_forward": value}, nil); (err == nil) != ok {
			t.Errorf("value %q: %v", value, err)
		}
	}
}
