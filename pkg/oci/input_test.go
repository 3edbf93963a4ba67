// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/mount"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/confine"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// testHost is a cgroup v2 machine with everything but the LSMs.
func testHost() oci.Host {
	return oci.Host{
		Hostname: "node1", SeccompRoot: "/seccomp",
		Facts: sys.Facts{
			CgroupV2: true, Systemd: true, Capabilities: sys.CapabilityNames(), OOMScoreAdjMin: -1000, Seccomp: true,
			SwapAccounting: true, HugepageSizes: []string{"2MB", "1GB"}, CPUs: 4,
			RlimitMax: map[string]uint64{"RLIMIT_NOFILE": 1 << 20},
		},
	}
}

func testLookup() oci.Lookup {
	devices := []sys.Device{
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o666},
		{Path: "/dev/sda", Type: "b", Major: 8, Minor: 0, Mode: 0o660, GID: 6},
		{Path: "/dev/snd/timer", Type: "c", Major: 116, Minor: 33, Mode: 0o660, GID: 29},
	}
	return oci.Lookup{
		ReadFile: func(path string) ([]byte, error) {
			switch path {
			case "/seccomp/chmod.json", "/profiles/chmod.json":
				return []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}`), nil
			case "/profiles/broken.json":
				return []byte(`{`), nil
			}
			return nil, fs.ErrNotExist
		},
		Devices: func(path string) ([]sys.Device, error) {
			switch path {
			case "/dev":
				return devices, nil
			case "/dev/fuse":
				return devices[:1], nil
			case "/dev/sda":
				return devices[1:2], nil
			case "/dev/snd":
				return devices[2:], nil
			}
			return nil, fs.ErrNotExist
		},
		CDI: func(spec *specs.Spec, names []string) error {
			if names[0] == "vendor.com/gpu=missing" {
				return errors.New("unresolvable")
			}
			for _, name := range names {
				spec.Process.Env = append(spec.Process.Env, "CDI="+name)
				if kind, node, ok := strings.Cut(name, "=node:"); ok && kind == "vendor.com/disk" {
					spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{Path: node, Type: "b", Major: 8})
				}
			}
			return nil
		},
		AppArmorLoaded:  func(profile string) (bool, error) { return profile == "loaded", nil },
		AppArmorDefault: func(bool) (string, error) { return confine.DefaultAppArmor, nil },
		Propagation: func(path string) (mount.Propagation, error) {
			switch path {
			case "/shared":
				return mount.Propagation{Mount: "/shared", Shared: true}, nil
			case "/slave":
				return mount.Propagation{Mount: "/slave", Slave: true}, nil
			}
			return mount.Propagation{Mount: "/"}, nil
		},
	}
}

func testSandbox() *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "web-0", Uid: "1f1e", Namespace: "shop", Attempt: 1},
		Hostname: "web-0", LogDirectory: "/var/log/pods/shop_web-0_1f1e",
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/kubepods/burstable/pod1f1e", SecurityContext: &cri.LinuxSandboxSecurityContext{}},
	}
}

func testPause() oci.PauseInput {
	return oci.PauseInput{
		ID: "p0d", Config: testSandbox(), RootFS: "/run/cri-shim/pause", CgroupsPath: "/kubepods/burstable/pod1f1e/p0d",
		Namespaces: oci.Namespaces{Network: "/var/run/netns/cri-p0d"}, Host: testHost(), Lookup: testLookup(),
	}
}

// testInput is a plain container whose security context is what the kubelet sends.
func testInput() oci.ContainerInput {
	return oci.ContainerInput{
		ID: "c0", PodID: "p0d", Sandbox: testSandbox(),
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "web"},
			Image:    &cri.ImageSpec{Image: "sha256:abc"},
			Linux: &cri.LinuxContainerConfig{
				Resources: &cri.LinuxContainerResources{},
				SecurityContext: &cri.LinuxContainerSecurityContext{
					NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
					MaskedPaths:      []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
				},
			},
		},
		Image:     ocispec.ImageConfig{Entrypoint: []string{"/bin/web"}, Cmd: []string{"--serve"}, Env: []string{"PATH=/bin", "A=image"}, WorkingDir: "/srv"},
		ImageName: "docker.io/library/web:1", User: identity.User{UID: 1000, GID: 1000, Groups: []uint32{1000}, Home: "/home/web"},
		RootFS: "/var/lib/cri-shim/containers/c0/rootfs", CgroupsPath: "/kubepods/burstable/pod1f1e/c0",
		Namespaces:   oci.Namespaces{Network: "/var/run/netns/cri-p0d", IPC: "/proc/7/ns/ipc", UTS: "/proc/7/ns/uts", PID: "/proc/7/ns/pid"},
		HostnamePath: "/pods/p0d/hostname", ResolvPath: "/pods/p0d/resolv.conf", HostsPath: "/pods/p0d/hosts", ShmPath: "/pods/p0d/shm",
		Host: testHost(), Lookup: testLookup(),
	}
}

func security(in *oci.ContainerInput) *cri.LinuxContainerSecurityContext {
	return in.Config.Linux.SecurityContext
}

// refused checks that err is one of the two classes the package promises.
func refused(t *testing.T, err error) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("error %v is neither InvalidArgument nor FailedPrecondition", err)
	}
}
