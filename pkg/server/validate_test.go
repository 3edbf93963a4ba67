// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/server"
)

// check wants a request refused with all of the words in faults, or accepted
// when there are none.
func check(t *testing.T, name string, request any, faults ...string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		err := server.Validate(request)
		if len(faults) == 0 {
			if err != nil {
				t.Errorf("refused: %v", err)
			}
			return
		}
		if !errdefs.IsInvalidArgument(err) {
			t.Fatalf("got %v, want InvalidArgument", err)
		}
		for _, f := range faults {
			if !strings.Contains(err.Error(), f) {
				t.Errorf("%q is not told: %v", f, err)
			}
		}
	})
}

func podRequest(change func(*cri.PodSandboxConfig)) *cri.RunPodSandboxRequest {
	c := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "web-0", Namespace: "shop", Uid: "3b9c"},
		Hostname:     "web-0",
		LogDirectory: "/var/log/pods/shop_web-0_3b9c",
		PortMappings: []*cri.PortMapping{{ContainerPort: 80}, {ContainerPort: 53, HostPort: 53, Protocol: cri.Protocol_UDP, HostIp: "::1"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/burstable/pod3b9c",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}}},
		},
	}
	change(c)
	return &cri.RunPodSandboxRequest{Config: c}
}

func TestValidatePod(t *testing.T) {
	type config = cri.PodSandboxConfig
	check(t, "no config", &cri.RunPodSandboxRequest{}, "config is required")
	check(t, "no metadata", &cri.RunPodSandboxRequest{Config: &config{}}, "metadata is required")
	for _, tt := range []struct {
		name   string
		change func(*config)
		faults []string
	}{
		{"good", func(*config) {}, nil},
		{"bare", func(c *config) { *c = config{Metadata: c.Metadata} }, nil},
		{"barest", func(c *config) { *c = config{Metadata: &cri.PodSandboxMetadata{Name: "web"}} }, nil},
		{"no name", func(c *config) { c.Metadata.Name = "" }, []string{"metadata.name is required"}},
		{"sysctl", func(c *config) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} }, []string{"sysctls[vm.swappiness]"}},
		{"seccomp", func(c *config) { c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: 9} }, []string{"seccomp.profile_type"}},
		{"resources", func(c *config) { c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 1} }, []string{"cpu_period"}},
		{"overhead", func(c *config) { c.Linux.Overhead = &cri.LinuxContainerResources{MemoryLimitInBytes: -2} }, []string{"memory_limit_in_bytes"}},
		{"line in resolv.conf", func(c *config) { c.DnsConfig = &cri.DNSConfig{Searches: []string{"a\nnameserver 10.0.0.1"}} }, []string{"dns_config.searches"}},
		{"CNI argument injection", func(c *config) { c.Metadata.Name = "a;K8S_POD_NAMESPACE=b" }, []string{"metadata.name"}},
		{"slash", func(c *config) { c.Metadata.Uid = "../x" }, []string{"metadata.uid"}},
		{"control character", func(c *config) { c.Metadata.Namespace = "a\nb" }, []string{"metadata.namespace"}},
		{"hostname", func(c *config) { c.Hostname = strings.Repeat("h", 65) }, []string{"hostname"}},
		{"log directory", func(c *config) { c.LogDirectory = "logs" }, []string{"log_directory"}},
		{"container port", func(c *config) { c.PortMappings[0].ContainerPort = 65536 }, []string{"port_mappings[0].container_port"}},
		{"host port", func(c *config) { c.PortMappings[1].HostPort = -1 }, []string{"port_mappings[1].host_port"}},
		{"host port of nothing", func(c *config) { c.PortMappings[1].ContainerPort = 0 }, []string{"needs a container_port"}},
		{"protocol", func(c *config) { c.PortMappings[0].Protocol = 9 }, []string{"protocol"}},
		{"host IP", func(c *config) { c.PortMappings[0].HostIp = "localhost" }, []string{"host_ip"}},
		{"cgroup parent", func(c *config) { c.Linux.CgroupParent = "/kubepods/../.." }, []string{"cgroup_parent"}},
		{"group without user", func(c *config) { c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 1} }, []string{"run_as_group"}},
		{"negative user", func(c *config) { c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: -1} }, []string{"run_as_user"}},
		{"unknown mode", func(c *config) { c.Linux.SecurityContext.NamespaceOptions.Pid = 9 }, []string{"pid: mode 9"}},
		{"target", func(c *config) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_TARGET }, []string{"pid: mode TARGET"}},
		{"user namespace without mappings", func(c *config) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = cri.NamespaceMode_POD
		}, []string{"userns_options", "one mapping"}},
		{"user namespace of a container", func(c *config) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = cri.NamespaceMode_CONTAINER
		}, []string{"userns_options: mode CONTAINER"}},
		{"mappings without user namespace", func(c *config) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids = []*cri.IDMapping{{}}
		}, []string{"mappings given for mode NODE"}},
		{"everything at once", func(c *config) {
			c.Metadata.Name, c.LogDirectory, c.Hostname, c.Linux.CgroupParent = "", "x", strings.Repeat("h", 65), ".."
		}, []string{"metadata.name", "log_directory", "hostname", "cgroup_parent"}},
	} {
		check(t, tt.name, podRequest(tt.change), tt.faults...)
	}
}

func containerRequest(change func(*cri.ContainerConfig)) *cri.CreateContainerRequest {
	c := &cri.ContainerConfig{
		Metadata:   &cri.ContainerMetadata{Name: "web"},
		Image:      &cri.ImageSpec{Image: "sha256:1"},
		LogPath:    "web/0.log",
		WorkingDir: "/srv",
		Envs:       []*cri.KeyValue{{Key: "A", Value: []byte("1=2")}, {Key: "empty"}},
		Mounts: []*cri.Mount{
			{ContainerPath: "/data", HostPath: "/srv/data", Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/img", Image: &cri.ImageSpec{Image: "x"}, ImageSubPath: "a/b", Readonly: true},
		},
		Devices: []*cri.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rwm"}},
		Linux: &cri.LinuxContainerConfig{
			Resources:       &cri.LinuxContainerResources{CpuQuota: -1, OomScoreAdj: -997},
			SecurityContext: &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: 7}, RunAsGroup: &cri.Int64Value{}, NamespaceOptions: &cri.NamespaceOption{}},
		},
	}
	change(c)
	return &cri.CreateContainerRequest{PodSandboxId: "p", Config: c}
}

func TestValidateContainer(t *testing.T) {
	type config = cri.ContainerConfig
	check(t, "empty", &cri.CreateContainerRequest{}, "pod_sandbox_id is required", "config is required")
	for _, tt := range []struct {
		name   string
		change func(*config)
		faults []string
	}{
		{"good", func(*config) {}, nil},
		{"bare", func(c *config) { *c = config{Metadata: c.Metadata, Image: c.Image} }, nil},
		{"no name, no image", func(c *config) { c.Metadata, c.Image = nil, nil }, []string{"metadata.name", "image.image"}},
		{"log path up", func(c *config) { c.LogPath = "web/../../etc/shadow" }, []string{"log_path"}},
		{"log path absolute", func(c *config) { c.LogPath = "/etc/shadow" }, []string{"log_path"}},
		{"log path is the directory", func(c *config) { c.LogPath = "web/.." }, []string{"log_path"}},
		{"log path inside", func(c *config) { c.LogPath = "web/../other.log" }, nil},
		{"working directory", func(c *config) { c.WorkingDir = "srv" }, []string{"working_dir"}},
		{"variable name", func(c *config) { c.Envs[0].Key = "A=B" }, []string{"envs", `"A=B"`}},
		{"variable value", func(c *config) { c.Envs[1].Value = []byte("a\x00b") }, []string{"envs", `"empty"`}},
		{"mount target", func(c *config) { c.Mounts[0].ContainerPath = "data" }, []string{"mounts[data].container_path"}},
		{"mount source missing", func(c *config) { c.Mounts[0].HostPath = "" }, []string{"mounts[/data].host_path"}},
		{"mount source relative", func(c *config) { c.Mounts[0].HostPath = "data" }, []string{"mounts[/data].host_path"}},
		{"mount of both kinds", func(c *config) { c.Mounts[1].HostPath = "/x" }, []string{"mounts[/img].host_path", "image"}},
		{"mount of a nameless image", func(c *config) { c.Mounts[1].Image.Image = "" }, []string{"mounts[/img].image.image"}},
		{"image sub path", func(c *config) { c.Mounts[1].ImageSubPath = "../x" }, []string{"image_sub_path"}},
		{"image volume to write to", func(c *config) { c.Mounts[1].Readonly = false }, []string{"mounts[/img].readonly"}},
		{"sub path without image", func(c *config) { c.Mounts[0].ImageSubPath = "x" }, []string{"image_sub_path", "without image"}},
		{"recursive but writable", func(c *config) { c.Mounts[0].Readonly = false }, []string{"recursive_read_only", "without readonly"}},
		{"recursive but shared", func(c *config) { c.Mounts[0].Propagation = cri.MountPropagation_PROPAGATION_BIDIRECTIONAL }, []string{"recursive_read_only", "BIDIRECTIONAL"}},
		{"propagation", func(c *config) { c.Mounts[1].Propagation = 9 }, []string{"mounts[/img].propagation", "9"}},
		{"device", func(c *config) { c.Devices[0].HostPath = "fuse" }, []string{"devices[/dev/fuse].host_path"}},
		{"device permissions", func(c *config) { c.Devices[0].Permissions = "rx" }, []string{"permissions"}},
		{"CDI device", func(c *config) { c.CDIDevices = []*cri.CDIDevice{{}} }, []string{"CDI_devices[0]"}},
		{"stop signal", func(c *config) { c.StopSignal = 99 }, []string{"stop_signal"}},
		{"group without user", func(c *config) { c.Linux.SecurityContext.RunAsUser = nil }, []string{"run_as_group"}},
		{"group with user name", func(c *config) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsUsername = nil, "www"
		}, nil},
		{"two users", func(c *config) { c.Linux.SecurityContext.RunAsUsername = "www" }, []string{"run_as_username", "together with run_as_user"}},
		{"supplemental group", func(c *config) { c.Linux.SecurityContext.SupplementalGroups = []int64{-5} }, []string{"supplemental_groups"}},
		{"target without id", func(c *config) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_TARGET }, []string{"target_id"}},
		{"network of a target", func(c *config) { c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_TARGET }, []string{"network: mode TARGET"}},
		{"shares below what the kernel takes", func(c *config) { c.Linux.Resources.CpuShares = 1 }, nil},
		{"shares above", func(c *config) { c.Linux.Resources.CpuShares = 1 << 40 }, nil},
		{"device without a place", func(c *config) { c.Devices[0].ContainerPath = "" }, nil},
		{"closing stdin that is not open", func(c *config) { c.StdinOnce = true }, nil},
		{"capability", func(c *config) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"FLY"}}
		}, []string{"add_capabilities", "FLY"}},
		{"masked path", func(c *config) { c.Linux.SecurityContext.MaskedPaths = []string{"proc"} }, []string{"masked_paths"}},
		{"swap without memory", func(c *config) { c.Linux.Resources.MemorySwapLimitInBytes = 5 }, []string{"memory_swap_limit_in_bytes"}},
		{"everything at once", func(c *config) {
			c.LogPath, c.Mounts[0].HostPath, c.Linux.Resources.CpuQuota = "/x", "y", 5
		}, []string{"log_path", "mounts[/data]", "cpu_quota"}},
		{"shares", func(c *config) { c.Linux.Resources.CpuShares = -2 }, []string{"cpu_shares"}},
		{"oom score", func(c *config) { c.Linux.Resources.OomScoreAdj = 1001 }, []string{"oom_score_adj"}},
	} {
		check(t, tt.name, containerRequest(tt.change), tt.faults...)
	}
}

func TestValidateCalls(t *testing.T) {
	cmd := []string{"true"}
	for _, tt := range []struct {
		name    string
		request any
		faults  []string
	}{
		{"stop", &cri.StopContainerRequest{ContainerId: "c", Timeout: 30}, nil},
		{"stop for ever", &cri.StopContainerRequest{ContainerId: "c", Timeout: 1 << 62}, nil},
		{"stop nothing", &cri.StopContainerRequest{Timeout: -1}, []string{"container_id", "timeout -1 is negative"}},
		{"exec sync", &cri.ExecSyncRequest{ContainerId: "c", Cmd: cmd}, nil},
		{"exec sync nothing", &cri.ExecSyncRequest{Timeout: -2}, []string{"container_id", "cmd: nothing to run", "timeout -2"}},
		{"exec sync of a NUL", &cri.ExecSyncRequest{ContainerId: "c", Cmd: []string{"a", "b\x00"}}, []string{"cmd", "NUL"}},
		{"exec without a name", &cri.ExecRequest{ContainerId: "c", Cmd: []string{"", "b"}, Stdout: true}, []string{"cmd: nothing to run"}},
		{"exec", &cri.ExecRequest{ContainerId: "c", Cmd: cmd, Tty: true, Stdin: true}, nil},
		{"exec nothing", &cri.ExecRequest{}, []string{"container_id", "cmd: nothing to run", "one of stdin"}},
		{"exec terminal with stderr", &cri.ExecRequest{ContainerId: "c", Cmd: cmd, Tty: true, Stderr: true}, []string{"exclude"}},
		{"attach", &cri.AttachRequest{ContainerId: "c", Stdout: true, Stderr: true}, nil},
		{"attach nothing", &cri.AttachRequest{}, []string{"container_id", "one of stdin"}},
		{"port-forward", &cri.PortForwardRequest{PodSandboxId: "p", Port: []int32{1, 65535}}, nil},
		{"port-forward nothing", &cri.PortForwardRequest{Port: []int32{0}}, []string{"pod_sandbox_id", "port 0"}},
		{"update", &cri.UpdateContainerResourcesRequest{ContainerId: "c", Linux: &cri.LinuxContainerResources{}}, nil},
		{"update nothing", &cri.UpdateContainerResourcesRequest{}, []string{"container_id"}},
		{"update pod", &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: "p"}, nil},
		{"update pod wrongly", &cri.UpdatePodSandboxResourcesRequest{Overhead: &cri.LinuxContainerResources{CpuPeriod: -1}}, []string{"pod_sandbox_id", "cpu_period"}},
		{"no CIDR", &cri.UpdateRuntimeConfigRequest{}, nil},
		{"CIDRs", cidrRequest("10.1.0.0/16,fd00::/64"), nil},
		{"bad CIDR", cidrRequest("10.1.0.0/16,x"), []string{`"x"`}},
	} {
		check(t, tt.name, tt.request, tt.faults...)
	}
}

func cidrRequest(cidr string) *cri.UpdateRuntimeConfigRequest {
	return &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: cidr}}}
}
