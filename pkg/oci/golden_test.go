// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// golden compares a spec with its file. The default seccomp profile belongs to a module and to the kernel the test runs
// on, so only the size of its list of rules is kept.
func golden(t *testing.T, spec *specs.Spec) {
	t.Helper()
	if s := spec.Linux.Seccomp; s != nil && len(s.Syscalls) > 3 {
		s.Syscalls, s.Architectures = nil, []specs.Arch{"default profile"}
	}
	got, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", filepath.FromSlash(t.Name())+".json")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("spec differs from %s; see what -update makes of it:\n%s", file, got)
	}
}

var podMapping = []*cri.IDMapping{{HostId: 100000, ContainerId: 0, Length: 65536}}

func inUserns(in *oci.ContainerInput) {
	o := &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: podMapping, Gids: podMapping}}
	in.Sandbox.Linux.SecurityContext.NamespaceOptions = o
	in.Namespaces.User = "/proc/7/ns/user"
}

func TestGoldenContainer(t *testing.T) {
	for name, edit := range containerCases() {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			edit(&in)
			spec, err := oci.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, spec)
		})
	}
}

func containerCases() map[string]func(*oci.ContainerInput) {
	return map[string]func(*oci.ContainerInput){
		"plain":   func(*oci.ContainerInput) {},
		"default": func(in *oci.ContainerInput) { in.Config.Linux = nil },
		"command": func(in *oci.ContainerInput) {
			in.Config.Command, in.Config.Args, in.Image.WorkingDir = []string{"sh"}, []string{"-c", "true"}, "rel/dir"
			in.Config.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("config")}, {Key: "B", Value: []byte("1")}, {Key: "B", Value: []byte("2")}}
			in.Config.Tty, in.Config.Stdin = true, true
		},
		"privileged": func(in *oci.ContainerInput) {
			in.Sandbox.Linux.SecurityContext.Privileged = true
			security(in).Privileged = true
			security(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/profiles/chmod.json"}
			in.Config.Devices = []*cri.Device{{ContainerPath: "/dev/xfuse", HostPath: "/dev/fuse", Permissions: "rwm"}}
		},
		"security": func(in *oci.ContainerInput) {
			in.Host.AppArmor, in.Host.SELinux = true, true
			in.Labels = confine.Labels{Process: "system_u:system_r:container_t:s0:c1,c2", Mount: "system_u:object_r:container_file_t:s0:c1,c2"}
			security(in).Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN", "cap_sys_time"}, DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
			security(in).SelinuxOptions = &cri.SELinuxOption{Type: "spc_t"}
			security(in).NoNewPrivs, security(in).ReadonlyRootfs = true, true
			security(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "chmod.json"}
			security(in).Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "localhost/loaded"}
			security(in).MaskedPaths, security(in).ReadonlyPaths = nil, nil
		},
		"deprecated": func(in *oci.ContainerInput) {
			in.Host.AppArmor = true
			security(in).SeccompProfilePath, security(in).ApparmorProfile = "runtime/default", "localhost/loaded"
		},
		"mounts": mountsCase,
		"userns": func(in *oci.ContainerInput) {
			inUserns(in)
			in.Config.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: "/vol", UidMappings: podMapping, GidMappings: podMapping}}
		},
		"userns-devices": func(in *oci.ContainerInput) {
			inUserns(in)
			in.Config.Devices = []*cri.Device{
				{ContainerPath: "/dev/fuse", HostPath: "/dev/fuse"},
				{HostPath: "/dev/sda"},
				{ContainerPath: "/dev/renamed", HostPath: "/dev/fuse", Permissions: "rw"},
				{ContainerPath: "/dev/sound", HostPath: "/dev/snd"},
			}
			in.Config.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/disk=node:/dev/sda"}, {Name: "vendor.com/disk=node:/dev/disk0"}}
		},
		"privileged-userns-host-network": func(in *oci.ContainerInput) {
			inUserns(in)
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
			security(in).NamespaceOptions.Network = cri.NamespaceMode_NODE
			in.Sandbox.Linux.SecurityContext.Privileged, security(in).Privileged = true, true
		},
		"userns-host-network": func(in *oci.ContainerInput) {
			inUserns(in)
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
			security(in).NamespaceOptions.Network = cri.NamespaceMode_NODE
		},
		"host-namespaces": func(in *oci.ContainerInput) {
			o := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE}
			in.Sandbox.Linux.SecurityContext.NamespaceOptions, security(in).NamespaceOptions = o, o
			in.Sandbox.Hostname, in.Namespaces = "", oci.Namespaces{}
		},
		"target-pid": func(in *oci.ContainerInput) {
			security(in).NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: "c1"}
			in.Namespaces.Target = "/proc/9/ns/pid"
		},
		"devices": func(in *oci.ContainerInput) {
			in.Config.Devices = []*cri.Device{
				{ContainerPath: "/dev/myfuse", HostPath: "/dev/fuse", Permissions: "rw"}, {ContainerPath: "/dev/snd", HostPath: "/dev/snd"},
			}
			in.Config.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/gpu=0"}}
			in.Config.Annotations = map[string]string{"cdi.k8s.io/a": "vendor.com/gpu=0,vendor.com/gpu=1"}
		},
		"resources-v2": func(in *oci.ContainerInput) {
			in.Config.Linux.Resources = &cri.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 950, CpusetCpus: "0-1,3",
				CpusetMems: "0", HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}, {PageSize: "64KB", Limit: 0}},
				Unified: map[string]string{"memory.high": "60000000"},
			}
		},
		"resources-v1": func(in *oci.ContainerInput) {
			in.Host.CgroupV2, in.Host.OOMScoreAdjMin = false, 0
			in.Config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 96 << 20, OomScoreAdj: -997}
		},
		"annotations": func(in *oci.ContainerInput) {
			in.Sandbox.Annotations = map[string]string{"dev.gvisor.spec.mount.a": "1", "other/key": "2", "devices/b": "not of the pod"}
			in.Config.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": "forged", "devices/a": "3", "dev.gvisor.b": "not of the container"}
			in.PodAnnotations, in.ContainerAnnotations = []string{"dev.gvisor.*"}, []string{"devices/?", "io.kubernetes.cri.*"}
		},
	}
}

func mountsCase(in *oci.ContainerInput) {
	security(in).ReadonlyRootfs = true
	in.Image.Volumes = map[string]struct{}{"/data": {}, "/cache/": {}}
	in.Declared = map[string]string{"/cache": "/containers/c0/volumes/0", "/data": "/not/used"}
	in.Volumes = map[int]string{2: "/containers/c0/vol-2/models"}
	in.Config.Mounts = []*cri.Mount{
		{ContainerPath: "/data/deep/inner", HostPath: "/b", Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/data/", HostPath: "/a", SelinuxRelabel: true, MountOptions: []string{"noexec", "exec", "nosuid", "nosuid"}},
		{ContainerPath: "/models", Image: &cri.ImageSpec{Image: "sha256:def"}, ImageSubPath: "models", Readonly: true},
		{ContainerPath: "/etc/hosts", HostPath: "/pods/etc-hosts"},
		{ContainerPath: "/out", HostPath: "/shared", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		{ContainerPath: "/in", HostPath: "/slave", Readonly: true, Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		{ContainerPath: "/dev", HostPath: "/dev"},
	}
}

func TestGoldenPause(t *testing.T) {
	for name, edit := range map[string]func(*oci.PauseInput){
		"plain": func(*oci.PauseInput) {},
		"kubelet": func(in *oci.PauseInput) {
			sc := in.Config.Linux.SecurityContext
			sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
			sc.RunAsUser, sc.RunAsGroup, sc.SupplementalGroups = &cri.Int64Value{Value: 7}, &cri.Int64Value{Value: 8}, []int64{9, 8}
			in.Config.Linux.Sysctls = map[string]string{"kernel/shm_rmid_forced": "1", "net.ipv4.ping_group_range": "0 10"}
			in.Config.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 256, MemoryLimitInBytes: 1 << 30}
			in.Host.OOMScoreAdjMin = 0
		},
		"host": func(in *oci.PauseInput) {
			in.Config.Hostname, in.Namespaces = "", oci.Namespaces{}
			in.Config.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE}
		},
		"userns": func(in *oci.PauseInput) {
			in.Config.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: podMapping, Gids: podMapping}}
			in.Namespaces.User = "/var/run/userns/cri-p0d"
		},
		"security": func(in *oci.PauseInput) {
			in.Host.AppArmor, in.Host.SELinux = true, true
			in.Labels = confine.Labels{Process: "system_u:system_r:container_t:s0:c1,c2", Mount: "m"}
			in.ShmPath = "/pods/p0d/shm"
			in.Config.Linux.SecurityContext.SeccompProfilePath = "localhost//profiles/chmod.json"
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := testPause()
			edit(&in)
			spec, err := oci.Pause(in)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, spec)
		})
	}
}
