// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/cmd/pause"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/oci/identity"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// runcRig runs specs with a real runc. Its containers are removed when the test ends.
type runcRig struct {
	t    *testing.T
	runc string
	dir  string
	host oci.Host
}

func newRig(t *testing.T) *runcRig {
	t.Helper()
	runc, err := filepath.Abs("../../bin/runc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(runc); err != nil {
		t.Skip("bin/runc is not built: make runc")
	}
	if os.Geteuid() != 0 {
		t.Skip("runc needs root")
	}
	facts, err := sys.ReadFacts()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Users of a user namespace have to get at the root file system.
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		// The parent of the containers' cgroups is nobody's but ours; there is one for each v1 hierarchy.
		for _, pattern := range []string{"/sys/fs/cgroup/cri-oci-test", "/sys/fs/cgroup/*/cri-oci-test"} {
			dirs, _ := filepath.Glob(pattern)
			for _, d := range dirs {
				if err := os.Remove(d); err != nil {
					t.Errorf("left behind: %v", err)
				}
			}
		}
	})
	return &runcRig{t: t, runc: runc, dir: dir, host: oci.Host{Facts: facts, Hostname: "node1"}}
}

// pauseRoot makes the root directory of pause.
func (r *runcRig) pauseRoot() string {
	r.t.Helper()
	root := filepath.Join(r.dir, "pause")
	for _, d := range []string{"dev", "proc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "dev", "null"), nil, 0o444); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "pause"), pause.Binary(), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return root
}

// run starts the container and returns the pid of its process, or 0 when it is not to stay.
func (r *runcRig) run(name string, spec *specs.Spec, detach bool) (pid int, output string) {
	r.t.Helper()
	id := fmt.Sprintf("cri-oci-test-%d-%s", os.Getpid(), name)
	bundle := filepath.Join(r.dir, name)
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		r.t.Fatal(err)
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o644); err != nil {
		r.t.Fatal(err)
	}
	pidFile := filepath.Join(bundle, "pid")
	args := []string{"--root", filepath.Join(r.dir, "state"), "run", "--bundle", bundle, "--pid-file", pidFile}
	if detach {
		args = append(args, "--detach")
	}
	out, err := os.Create(filepath.Join(bundle, "out"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(r.runc, append(args, id)...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(out.Name())
	r.t.Cleanup(func() {
		_ = exec.Command(r.runc, "--root", filepath.Join(r.dir, "state"), "delete", "-f", id).Run()
	})
	if err != nil {
		r.t.Fatalf("runc run %s: %v\n%s", name, err, text)
	}
	if strings.Contains(string(text), "level=") {
		r.t.Errorf("runc complains: %s", text)
	}
	if detach {
		raw, err := os.ReadFile(pidFile)
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(raw), &pid); err != nil {
			r.t.Fatal(err)
		}
	}
	return pid, string(text)
}

func (r *runcRig) pod(name string, config *cri.PodSandboxConfig, ns oci.Namespaces) (int, *specs.Spec) {
	r.t.Helper()
	spec, err := oci.Pause(oci.PauseInput{
		ID: name, Config: config, RootFS: r.pauseRoot(), CgroupsPath: oci.CgroupsPath("/cri-oci-test", name, false),
		Namespaces: ns, Host: r.host, Lookup: oci.Live(r.t.Context()),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	pid, _ := r.run(name, spec, true)
	return pid, spec
}

func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		out[key] = strings.TrimSpace(value)
	}
	return out
}

func TestRuncTakesPause(t *testing.T) {
	for name, edit := range map[string]func(*cri.PodSandboxConfig){
		"plain":   func(*cri.PodSandboxConfig) {},
		"seccomp": func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{} },
		"host": func(c *cri.PodSandboxConfig) {
			c.Hostname = ""
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE}
		},
		"userns": func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{}
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: podMapping, Gids: podMapping}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, config := newRig(t), testSandbox()
			edit(config)
			pid, spec := r.pod("pause-"+name, config, oci.Namespaces{})
			st := status(t, pid)
			if st["CapBnd"] != "0000000000000000" || st["NoNewPrivs"] != "1" {
				t.Errorf("pause has rights: %v", st)
			}
			if want := spec.Linux.Seccomp != nil; (st["Seccomp"] == "2") != want {
				t.Errorf("seccomp mode %s, want a filter: %v", st["Seccomp"], want)
			}
			if err := syscall.Kill(pid, 0); err != nil {
				t.Errorf("pause is gone: %v", err)
			}
		})
	}
}

// hostRoot makes a root file system that borrows the programs of this machine: /usr has to be mounted into it.
func (r *runcRig) hostRoot() (root string, usr *cri.Mount) {
	r.t.Helper()
	root = filepath.Join(r.dir, "rootfs")
	for _, d := range []string{"etc", "proc", "dev", "sys", "data", "usr"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		target, err := os.Readlink("/" + link)
		if err != nil {
			r.t.Skipf("/%s of this machine is not in /usr", link)
		}
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			r.t.Fatal(err)
		}
	}
	return root, &cri.Mount{ContainerPath: "/usr", HostPath: "/usr", Readonly: true}
}

func TestRuncTakesContainer(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*oci.ContainerInput)
		script string
		want   string
	}{
		"plain": {func(*oci.ContainerInput) {}, "hostname; id -u; grep Seccomp: /proc/self/status; ulimit -n; echo $HOME", "web-0\n1000\nSeccomp:\t0\n"},
		"seccomp": {func(in *oci.ContainerInput) {
			security(in).Seccomp = &cri.SecurityProfile{}
		}, "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"},
		"privileged": {func(in *oci.ContainerInput) {
			in.Sandbox.Linux.SecurityContext.Privileged, security(in).Privileged = true, true
			in.User = identity.User{Groups: []uint32{0}, Home: "/root"}
		}, "mount -t tmpfs none /data && grep /data /proc/mounts", "none /data tmpfs"},
		"mounts": {func(in *oci.ContainerInput) {
			in.Config.Mounts = []*cri.Mount{{ContainerPath: "/data/a/b", HostPath: "/usr", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"noexec"}}}
		}, "grep /data/a/b /proc/mounts", "/data/a/b"},
		"capabilities": {func(in *oci.ContainerInput) {
			security(in).Capabilities = &cri.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}, DropCapabilities: []string{"ALL"}}
		}, "grep -E 'CapEff|CapInh' /proc/self/status", "CapInh:\t0000000000000400\nCapEff:\t0000000000000400\n"},
		"resources": {func(in *oci.ContainerInput) {
			in.Config.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 950}
		}, "cat /proc/self/oom_score_adj", "950\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			in := testInput()
			root, usr := r.hostRoot()
			in.RootFS, in.Host, in.Lookup = root, r.host, oci.Live(r.t.Context())
			pid, _ := r.pod("pod-"+name, in.Sandbox, oci.Namespaces{})
			in.Namespaces = namespacesOf(pid)
			in.CgroupsPath = oci.CgroupsPath("/cri-oci-test", "c-"+name, false)
			in.HostnamePath, in.ResolvPath, in.HostsPath, in.ShmPath = "", "/etc/resolv.conf", "/etc/hosts", "/dev/shm"
			in.Image.Entrypoint, in.Config.Command = nil, []string{"/bin/sh", "-c", c.script}
			in.Image.Env, in.Image.WorkingDir = nil, ""
			c.edit(&in)
			in.Config.Mounts = append(in.Config.Mounts, usr)
			spec, err := oci.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			if _, out := r.run("c-"+name, spec, false); !strings.Contains(out, c.want) {
				t.Errorf("output %q, want %q in it", out, c.want)
			}
		})
	}
}

func namespacesOf(pid int) oci.Namespaces {
	at := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, kind) }
	return oci.Namespaces{Network: at("net"), IPC: at("ipc"), UTS: at("uts"), PID: at("pid"), User: at("user")}
}

func TestRuncTakesContainerInUserNamespace(t *testing.T) {
	for name, network := range map[string]cri.NamespaceMode{"pod": cri.NamespaceMode_POD, "host": cri.NamespaceMode_NODE} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			in := testInput()
			inUserns(&in)
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.Network = network
			security(&in).NamespaceOptions.Network = network
			root, usr := r.hostRoot()
			vol := filepath.Join(r.dir, "vol")
			if err := os.Mkdir(vol, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(p, 100000, 100000))
			}); err != nil {
				t.Fatal(err)
			}
			in.RootFS, in.Host, in.Lookup = root, r.host, oci.Live(r.t.Context())
			pid, _ := r.pod("pod-userns-"+name, in.Sandbox, oci.Namespaces{})
			in.Namespaces = namespacesOf(pid)
			in.CgroupsPath = oci.CgroupsPath("/cri-oci-test", "c-userns-"+name, false)
			in.HostnamePath, in.ResolvPath, in.HostsPath, in.ShmPath = "", "/etc/resolv.conf", "/etc/hosts", ""
			in.Image.Entrypoint, in.Image.WorkingDir, in.Image.Env = nil, "", nil
			in.Config.Command = []string{"/bin/sh", "-c", "cat /proc/self/uid_map && touch /data/x; ls /sys/class/net >/dev/null && stat -c %u:%a /data"}
			in.User = identity.User{Groups: []uint32{0}, Home: "/"}
			in.Config.Mounts = []*cri.Mount{usr, {ContainerPath: "/data", HostPath: vol, UidMappings: podMapping, GidMappings: podMapping}}
			spec, err := oci.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			_, out := r.run("c-userns-"+name, spec, false)
			if got := strings.Join(strings.Fields(out), " "); got != "0 100000 65536 0:755" {
				t.Errorf("uid map and owner of the volume: %q", got)
			}
			// Root of the pod wrote it, and on the host it belongs to root: that is what the mapping of a mount is for.
			fi, err := os.Stat(filepath.Join(vol, "x"))
			if err != nil {
				t.Fatal(err)
			}
			if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
				t.Errorf("file in the volume: %+v", fi.Sys())
			}
		})
	}
}
