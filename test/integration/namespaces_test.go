// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// spaces are the namespaces a container is in, by kind.
func spaces(t *testing.T, d *nodetest.Node, id string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(exec(t, d, id, "ns")) {
		kind, number, _ := strings.Cut(strings.TrimSpace(line), ":")
		out[kind] = number
	}
	return out
}

func hostSpace(t *testing.T, kind string) string {
	t.Helper()
	target, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(target, kind+":")
}

func options(c *cri.ContainerConfig, o *cri.NamespaceOption) *cri.ContainerConfig {
	c.Linux.SecurityContext.NamespaceOptions = o
	return c
}

func TestNamespaces(t *testing.T) {
	d := node(t)
	pod := func(t *testing.T, o *cri.NamespaceOption) (string, *cri.PodSandboxConfig) {
		config := d.PodConfig(strings.ToLower(filepath.Base(t.Name())))
		config.Linux.SecurityContext.NamespaceOptions = o
		return d.Pod(t, config), config
	}
	t.Run("shared", func(t *testing.T) {
		o := &cri.NamespaceOption{}
		p, config := pod(t, o)
		a := spaces(t, d, d.Run(t, p, options(nodetest.ContainerConfig("a", "sleep"), o), config))
		b := spaces(t, d, d.Run(t, p, options(nodetest.ContainerConfig("b", "sleep"), o), config))
		for _, kind := range []string{"net", "ipc", "pid", "uts"} {
			if a[kind] != b[kind] || a[kind] == hostSpace(t, kind) {
				t.Errorf("%s: %s and %s, the host has %s", kind, a[kind], b[kind], hostSpace(t, kind))
			}
		}
		if a["mnt"] == b["mnt"] {
			t.Error("two containers share a mount namespace")
		}
	})
	t.Run("container", func(t *testing.T) {
		o := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
		p, config := pod(t, o)
		first := d.Run(t, p, options(nodetest.ContainerConfig("a", "sleep"), o), config)
		a, b := spaces(t, d, first), spaces(t, d, d.Run(t, p, options(nodetest.ContainerConfig("b", "sleep"), o), config))
		if a["pid"] == b["pid"] || a["net"] != b["net"] || a["ipc"] != b["ipc"] {
			t.Errorf("namespaces %v and %v", a, b)
		}
		if out := exec(t, d, first, "pid1"); strings.TrimSpace(out) != "testbox" {
			t.Errorf("PID 1 is %q", out)
		}
		target := options(nodetest.ContainerConfig("debug", "sleep"), &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: first})
		if got := spaces(t, d, d.Run(t, p, target, config)); got["pid"] != a["pid"] {
			t.Errorf("target's PID namespace is %s, the debugger's %s", a["pid"], got["pid"])
		}
		elsewhere := quickTarget(t, d)
		refusedContainer(t, d, elsewhere, options(clone(target), target.Linux.SecurityContext.NamespaceOptions), codes.InvalidArgument, first)
	})
	t.Run("node", func(t *testing.T) {
		o := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
		p, config := pod(t, o)
		config.Hostname = ""
		id := d.Run(t, p, options(nodetest.ContainerConfig("a", "sleep"), o), config)
		got := spaces(t, d, id)
		for _, kind := range []string{"net", "ipc", "pid", "uts"} {
			if got[kind] != hostSpace(t, kind) {
				t.Errorf("%s: %s, the host has %s", kind, got[kind], hostSpace(t, kind))
			}
		}
		s, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p})
		if err != nil || s.Status.Network.GetIp() != "" || s.Status.Linux.Namespaces.Options.Network != cri.NamespaceMode_NODE {
			t.Errorf("status %v, %v", s, err)
		}
		remove(t, d, id) // of what shares the host's PIDs only the container's are killed
	})
	t.Run("host network only", func(t *testing.T) {
		o := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER}
		p, config := pod(t, o)
		got := spaces(t, d, d.Run(t, p, options(nodetest.ContainerConfig("a", "sleep"), o), config))
		if got["net"] != hostSpace(t, "net") || got["ipc"] == hostSpace(t, "ipc") || got["pid"] == hostSpace(t, "pid") {
			t.Errorf("namespaces %v", got)
		}
		refusedContainer(t, d, p, options(nodetest.ContainerConfig("b"), &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}),
			codes.InvalidArgument, "ipc")
	})
}

// quickTarget is another pod.
func quickTarget(t *testing.T, d *nodetest.Node) string { return d.Pod(t, d.PodConfig("elsewhere")) }

// What a pod gives to its containers: names, files, memory, sysctls.
func TestPodFiles(t *testing.T) {
	d := node(t)
	config := d.PodConfig("files")
	config.Hostname = "box-7"
	config.DnsConfig = &cri.DNSConfig{Servers: []string{"10.1.2.3", "10.1.2.4"}, Searches: []string{"a.test", "b.test"}, Options: []string{"ndots:5"}}
	config.Linux.Sysctls = map[string]string{"net.core.somaxconn": "777\n", "kernel.shm_rmid_forced": "1", "net/ipv4/ip_local_port_range": "20000 30000"}
	pod := d.Pod(t, config)
	id := d.Run(t, pod, nodetest.ContainerConfig("app", "sleep"), config)
	contains(t, "host name", exec(t, d, id, "ns"), "hostname box-7")
	contains(t, "/etc/hostname", exec(t, d, id, "read", "/etc/hostname"), "box-7\n")
	contains(t, "resolv.conf", exec(t, d, id, "read", "/etc/resolv.conf"), "search a.test b.test\n", "nameserver 10.1.2.3\nnameserver 10.1.2.4\n", "options ndots:5\n")
	contains(t, "/etc/hosts", exec(t, d, id, "read", "/etc/hosts"), "127.0.0.1\tlocalhost", "\tbox-7\n")
	contains(t, "HOSTNAME", exec(t, d, id, "env"), "HOSTNAME=box-7")
	for file, want := range map[string]string{
		"net/core/somaxconn": "777", "kernel/shm_rmid_forced": "1", "net/ipv4/ip_local_port_range": "20000\t30000", "net/ipv4/ip_unprivileged_port_start": "0",
	} {
		if got := strings.TrimSpace(exec(t, d, id, "read", "/proc/sys/"+file)); got != want {
			t.Errorf("sysctl %s is %q, want %q", file, got, want)
		}
	}
	kubelet := filepath.Join(d.Dir, "hosts")
	mustWrite(t, kubelet, "10.9.9.9 from-the-kubelet\n")
	c := nodetest.ContainerConfig("kubelet", "sleep")
	c.Mounts = []*cri.Mount{{HostPath: kubelet, ContainerPath: "/etc/hosts"}}
	other := d.Run(t, pod, c, config)
	if got := exec(t, d, other, "read", "/etc/hosts"); got != "10.9.9.9 from-the-kubelet\n" {
		t.Errorf("/etc/hosts of the kubelet is %q", got)
	}
	exec(t, d, id, "write", "/dev/shm/note", "shared memory")
	if got := exec(t, d, other, "read", "/dev/shm/note"); got != "shared memory" {
		t.Errorf("/dev/shm of the other container holds %q", got)
	}
	plain := d.PodConfig("plain")
	plain.Hostname = ""
	p2 := d.Pod(t, plain)
	id2 := d.Run(t, p2, nodetest.ContainerConfig("plain", "sleep"), plain)
	host, err := os.ReadFile("/etc/resolv.conf")
	if err == nil && exec(t, d, id2, "read", "/etc/resolv.conf") != string(host) {
		t.Error("a pod without DNS has not the node's resolv.conf")
	}
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "host name", exec(t, d, id2, "ns"), "hostname "+own+"\n")
	contains(t, "/etc/hostname", exec(t, d, id2, "read", "/etc/hostname"), own+"\n")
}

func TestUserNamespaces(t *testing.T) { userNamespaces(t, node(t)) }

// TestUserNamespacesOnRun: what the daemon keeps is on a file system with the options that systemd mounts /run with. A user
// namespace may not drop one of them.
func TestUserNamespacesOnRun(t *testing.T) {
	nodetest.Require(t)
	preload, run := nodetest.Preload(t), t.TempDir()
	if err := os.Chmod(filepath.Dir(run), 0o711); err != nil { // users of user namespaces go through it
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", run, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_STRICTATIME, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(run, 0); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", run)
	d := nodetest.Start(t, preload)
	if shiftsOwners(t, run) {
		userNamespaces(t, d)
		return
	}
	config, o := userNamespace(d)
	refusedContainer(t, d, d.Pod(t, config), options(nodetest.ContainerConfig("app", "sleep"), o), codes.FailedPrecondition, "user namespace", "shift owners")
	t.Skip("tmpfs cannot shift owners (Linux 6.3): a container in a user namespace was refused, as it should")
}

// shiftsOwners tells whether a directory's file system can show its files with other owners.
func shiftsOwners(t *testing.T, dir string) bool {
	t.Helper()
	userns, err := mount.GetUsernsFD("0:200000:65536", "0:200000:65536")
	if err != nil {
		t.Fatal(err)
	}
	defer userns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())})
	if err != nil && !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	return err == nil
}

// userNamespace asks for a pod with ids of its own.
func userNamespace(d *nodetest.Node) (*cri.PodSandboxConfig, *cri.NamespaceOption) {
	config := d.PodConfig("users")
	ids := []*cri.IDMapping{{HostId: 200000, ContainerId: 0, Length: 65536}}
	o := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}}
	config.Linux.SecurityContext.NamespaceOptions = o
	return config, o
}

func userNamespaces(t *testing.T, d *nodetest.Node) {
	config, o := userNamespace(d)
	pod := d.Pod(t, config)
	id := d.Run(t, pod, options(nodetest.ContainerConfig("app", "sleep"), o), config)
	if got := strings.Fields(exec(t, d, id, "read", "/proc/self/uid_map")); fmt.Sprint(got) != "[0 200000 65536]" {
		t.Errorf("uid_map is %v", got)
	}
	contains(t, "identity", exec(t, d, id, "id"), "uid 0 gid 0")
	contains(t, "files of the image", exec(t, d, id, "stat", "/bin/testbox", "/etc/passwd"), "/bin/testbox uid=0 gid=0", "/etc/passwd uid=0 gid=0")
	exec(t, d, id, "write", "/tmp/mine", "x")
	contains(t, "own file", exec(t, d, id, "stat", "/tmp/mine"), "uid=0 gid=0")
	exec(t, d, id, "write", "/dev/shm/mine", "x")
	if _, _, code := d.Exec(t, id, tb, "write", "/proc/sys/kernel/pid_max", "1"); code == 0 {
		t.Error("root of a user namespace writes the node's sysctls")
	}
	rootfs := info(t, d, id).Rootfs
	st, err := os.Stat(filepath.Join(rootfs, "tmp", "mine"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := ownerOf(st); uid != 200000 {
		t.Errorf("on the host the file belongs to %d, want 200000", uid)
	}
	again := d.Run(t, pod, options(nodetest.ContainerConfig("again", "again"), o), config)
	if st := d.AwaitExit(t, again); st.ExitCode != 0 {
		t.Errorf("opening /dev/stdout again: %v, %s", st, d.LogOf(t, "again"))
	}
	contains(t, "log", d.LogOf(t, "again"), "again /dev/stdout", "again /dev/stderr")
	web := options(nodetest.ContainerConfig("web", "again"), o)
	web.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
	contains(t, "log", output(t, d, pod, web, config), "again /dev/stdout")
	refusedContainer(t, d, pod, options(nodetest.ContainerConfig("other"), &cri.NamespaceOption{
		Pid:           cri.NamespaceMode_CONTAINER,
		UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: []*cri.IDMapping{{HostId: 0, Length: 10}}, Gids: o.UsernsOptions.Gids},
	}), codes.InvalidArgument, "userns")
}
