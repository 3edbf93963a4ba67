// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inUserns gives a pod a user namespace and returns what its containers say of theirs.
func inUserns(c *cri.PodSandboxConfig) *cri.NamespaceOption {
	ids := []*cri.IDMapping{{HostId: 200000, Length: 65536}}
	o := c.Linux.SecurityContext.NamespaceOptions
	o.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	return clone(o)
}

// All containers of a pod share one sysfs. A privileged one writes to it, whichever came first, and the others never.
func TestSysOfPrivilegedContainer(t *testing.T) {
	d := node(t)
	for name, userns := range map[string]bool{"plain": false, "userns": true} {
		for _, privilegedFirst := range []bool{false, true} {
			config := d.PodConfig(name)
			config.Linux.SecurityContext.Privileged = true
			o := config.Linux.SecurityContext.NamespaceOptions
			if userns {
				o = inUserns(config)
			}
			pod := d.Pod(t, config)
			run := func(name string, privileged bool) string {
				c := nodetest.ContainerConfig(name, "sleep")
				c.Linux.SecurityContext.NamespaceOptions = clone(o)
				c.Linux.SecurityContext.Privileged = privileged
				return d.Run(t, pod, c, config)
			}
			first, second := run("first", privilegedFirst), run("second", !privilegedFirst)
			privileged, other := first, second
			if !privilegedFirst {
				privileged, other = second, first
			}
			const mtu = "/sys/class/net/eth0/mtu"
			exec(t, d, privileged, "write", mtu, "1234")
			contains(t, "mtu", exec(t, d, other, "read", mtu), "1234")
			for _, at := range []string{mtu, "/sys/kernel/mm/ksm/run"} {
				if _, stderr, code := d.Exec(t, other, tb, "write", at, "0"); code == 0 || !strings.Contains(stderr, "read-only file system") {
					t.Errorf("%s: %s of the unprivileged container: %d, %s", name, at, code, stderr)
				}
			}
			removePod(t, d, pod)
		}
	}
	d.NothingLeft(t)
}

// A pod with a user namespace on the host's network sees the host's /sys, and writes to nothing that is mounted in it.
func TestSysOfUsernsOnHostNetwork(t *testing.T) {
	d := node(t)
	config := hostNet(d.PodConfig("sys"))
	o := inUserns(config)
	pod := d.Pod(t, config)
	c := nodetest.ContainerConfig("app", "sleep")
	c.Linux.SecurityContext.NamespaceOptions = o
	id := d.Run(t, pod, c, config)
	for line := range strings.Lines(exec(t, d, id, "read", "/proc/self/mountinfo")) {
		f := strings.Fields(line)
		own := strings.Contains(line, "uid=200000") // a tmpfs for the container's cgroups
		if !own && strings.HasPrefix(f[4], "/sys") && !strings.HasPrefix(f[5], "ro") {
			t.Errorf("%s is mounted %s", f[4], f[5])
		}
	}
}

// In a user namespace a device may have another name in the container than on the host, as elsewhere.
func TestRenamedDevices(t *testing.T) {
	d := node(t)
	config := hostNet(d.PodConfig("renamed"))
	o := inUserns(config)
	pod := d.Pod(t, config)
	c := nodetest.ContainerConfig("app", "sleep")
	c.Linux.SecurityContext.NamespaceOptions = o
	c.Devices = []*cri.Device{
		{HostPath: "/dev/fuse", ContainerPath: "/dev/renamed"},
		{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse"},
		{HostPath: "/dev/zero", ContainerPath: "/opt/nodes/zero", Permissions: "r"},
		{HostPath: "/dev/full"},
	}
	id := d.Run(t, pod, c, config)
	contains(t, "devices", exec(t, d, id, "stat", "/dev/renamed", "/dev/fuse", "/opt/nodes/zero"), "rdev=10:229", "rdev=1:5")
	if _, stderr, code := d.Exec(t, id, tb, "write", "/dev/full", "x"); code == 0 || !strings.Contains(stderr, "no space left") {
		t.Errorf("a device under its own name: %d, %s", code, stderr)
	}
	if found, err := filepath.Glob("/opt/nodes/zero"); err != nil || len(found) > 0 {
		t.Errorf("made on the host: %v, %v", found, err)
	}
}
