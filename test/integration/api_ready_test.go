// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// copied is a program of ours in a place where a test can take it away.
func copied(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(nodetest.Bin(t, name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// ready waits until RuntimeReady is what it should be, and returns it. Each
// question must be answered at once, whatever is broken.
func ready(t *testing.T, d *nodetest.Node, want bool) (c *cri.RuntimeCondition) {
	t.Helper()
	nodetest.Eventually(t, 20*time.Second, fmt.Sprintf("RuntimeReady is %t", want), func() bool {
		began := time.Now()
		c = condition(t, d, cri.RuntimeReady)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("Status took %s", took)
		}
		return c.Status == want
	})
	return c
}

// monitorOf finds the monitor of a daemon.
func monitorOf(t *testing.T, d *nodetest.Node) int {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range dirs {
		args, _ := os.ReadFile(file)
		if name, _, _ := strings.Cut(string(args), "\x00"); filepath.Base(name) == "cri-monitor" && strings.Contains(string(args), d.Dir) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no monitor")
	return 0
}

// Without a monitor nothing can be started: the node says so until there is one
// again, and goes on with what ran.
func TestNotReadyWithoutMonitor(t *testing.T) {
	nodetest.Require(t)
	program := copied(t, "cri-monitor")
	d := node(t, fmt.Sprintf("[runtime]\nmonitor = %q\n", program))
	pod, config := quickPod(t, d, "before")
	id := d.Run(t, pod, inHostNet("app", "sleep"), config)
	ready(t, d, true)
	if err := os.Rename(program, program+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(monitorOf(t, d), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if c := ready(t, d, false); c.Reason != "MonitorNotConnected" || c.Message == "" {
		t.Errorf("condition %v", c)
	}
	if st := d.Status(t, id); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status without a monitor: %v", st)
	}
	_, err := d.Runtime.RunPodSandbox(nodetest.Within(t, 30*time.Second), &cri.RunPodSandboxRequest{Config: hostNet(d.PodConfig("meanwhile"))})
	code(t, err, codes.Unavailable, "monitor")
	if err := os.Rename(program+".gone", program); err != nil {
		t.Fatal(err)
	}
	ready(t, d, true)
	contains(t, "exec with the next monitor", exec(t, d, id, "echo", "fine"), "fine")
	after, afterConfig := quickPod(t, d, "meanwhile")
	contains(t, "log", output(t, d, after, inHostNet("after", "echo", "well"), afterConfig), "well")
}

// A kernel without what pods need makes a node that says what it is and what to do. The machines no-memory and no-overlay are such.
func TestNotReadyOnBareKernel(t *testing.T) {
	nodetest.Require(t)
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil || slices.Contains(strings.Fields(string(controllers)), "memory") {
		t.Skip("this machine's cgroups have the memory controller: make machine-no-memory")
	}
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	d := node(t)
	c := ready(t, d, false)
	if !strings.Contains(string(filesystems), "overlay") {
		if c.Reason != "OverlayMissing" || !strings.Contains(c.Message, "modprobe overlay") {
			t.Errorf("condition %v, want OverlayMissing with the remedy", c)
		}
		return
	}
	if c.Reason != "ControllersMissing" || !strings.Contains(c.Message, "memory") || !strings.Contains(c.Message, "cgroup_enable=memory") {
		t.Errorf("condition %v, want ControllersMissing with the remedy", c)
	}
}

// A node whose OCI runtime is gone is not ready.
func TestNotReadyWithoutRuntime(t *testing.T) {
	nodetest.Require(t)
	program := copied(t, "runc")
	d := node(t, fmt.Sprintf("[runtime]\ndefault = \"runc\"\n[runtime.handlers.runc]\npath = %q\n", program))
	ready(t, d, true)
	if err := os.Rename(program, program+".gone"); err != nil {
		t.Fatal(err)
	}
	if c := ready(t, d, false); c.Reason != "RuntimeMissing" || !strings.Contains(c.Message, program) {
		t.Errorf("condition %v", c)
	}
	refusedPod(t, d, hostNet(d.PodConfig("meanwhile")), "", codes.FailedPrecondition, program)
	d.NothingLeft(t)
	mustWrite(t, program, "#!/bin/sh\n") // there, and not executable
	if c := ready(t, d, false); c.Reason != "RuntimeMissing" {
		t.Errorf("condition %v", c)
	}
	if err := os.Rename(program+".gone", program); err != nil {
		t.Fatal(err)
	}
	ready(t, d, true)
	removePod(t, d, d.Pod(t, hostNet(d.PodConfig("meanwhile"))))
	d.NothingLeft(t)
}

// A node that cannot write down what it does is not ready.
func TestNotReadyWithoutDisk(t *testing.T) {
	d := node(t)
	ready(t, d, true)
	for _, c := range []struct{ dir, options, reason, mention string }{
		{"root", "ro", "RootNotWritable", "read-only"},
		{"root", "size=512k", "RootNotWritable", "full"},
		{"root", "nr_inodes=1", "RootNotWritable", "inodes"},
		{"state", "ro", "StateNotWritable", "read-only"},
		{"state", "size=512k", "StateNotWritable", "full"},
	} {
		t.Run(c.dir+" "+c.options, func(t *testing.T) {
			dir := filepath.Join(d.Dir, c.dir)
			if err := runHost("mount", "-t", "tmpfs", "-o", c.options, "cri-test", dir); err != nil {
				t.Fatal(err)
			}
			got := ready(t, d, false)
			if err := runHost("umount", dir); err != nil {
				t.Fatal(err)
			}
			if got.Reason != c.reason || !strings.Contains(got.Message, dir) || !strings.Contains(got.Message, c.mention) {
				t.Errorf("condition %v", got)
			}
			ready(t, d, true)
		})
	}
}

// Status asks the network's plugins and waits for none of them.
func TestStatusOfHangingPlugin(t *testing.T) {
	d, plugins := cniNode(t, "")
	gate := filepath.Join(d.Dir, "gate")
	t.Cleanup(func() { mustWrite(t, gate, "") })
	plugin(t, plugins, "cri-fake", fmt.Sprintf(`
[ $CNI_COMMAND = STATUS ] || exit 0
while [ ! -e %s ]; do sleep 0.1; done`, gate))
	writeConf(t, d, "10-test.conflist", `{"cniVersion":"1.1.0","name":"test","plugins":[{"type":"cri-fake"}]}`)
	nodetest.Eventually(t, 5*time.Second, "the network is not ready for the plugin's sake", func() bool {
		began := time.Now()
		c := networkReady(t, d)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("Status took %s", took)
		}
		return !c.Status && strings.Contains(c.Message, "no answer to STATUS")
	})
	if c := condition(t, d, cri.RuntimeReady); !c.Status {
		t.Errorf("the runtime is not ready because of its network: %v", c)
	}
	mustWrite(t, gate, "")
	nodetest.Eventually(t, 20*time.Second, "the network is ready", func() bool { return networkReady(t, d).Status })
	plugin(t, plugins, "cri-fake", `
[ $CNI_COMMAND = STATUS ] || exit 0
echo '{"cniVersion":"1.1.0","code":50,"msg":"no addresses left"}'
exit 1`)
	nodetest.Eventually(t, 20*time.Second, "the network says why it is not ready", func() bool {
		c := networkReady(t, d)
		return !c.Status && strings.Contains(c.Message, "no addresses left")
	})
}

// What the node promises of its handlers is what the runtime says of itself.
func TestHandlerFeatures(t *testing.T) {
	d := node(t, "[runtime]\ndefault = \"runc\"\n")
	out, err := osexec.Command(nodetest.Bin(t, "runc"), "features").Output()
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		MountOptions []string `json:"mountOptions"`
		Linux        struct {
			Namespaces      []string `json:"namespaces"`
			MountExtensions struct {
				IDMap struct {
					Enabled bool `json:"enabled"`
				} `json:"idmap"`
			} `json:"mountExtensions"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatal(err)
	}
	s, err := d.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, h := range s.RuntimeHandlers {
		names = append(names, h.Name)
		if want := slices.Contains(f.MountOptions, "rro"); h.Features.RecursiveReadOnlyMounts != want {
			t.Errorf("%q: recursive read-only mounts %t, the runtime says %t", h.Name, h.Features.RecursiveReadOnlyMounts, want)
		}
		if want := f.Linux.MountExtensions.IDMap.Enabled && slices.Contains(f.Linux.Namespaces, "user"); h.Features.UserNamespaces != want {
			t.Errorf("%q: user namespaces %t, the runtime says %t", h.Name, h.Features.UserNamespaces, want)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"", "runc"}) {
		t.Errorf("handlers %q", names)
	}
	if !s.Features.SupplementalGroupsPolicy || !s.Features.UserNamespacesHostNetwork || !s.Features.MountOptions {
		t.Errorf("features %v", s.Features)
	}
}

// The node's pod CIDR is where the next pods' addresses are from, also after a
// restart; pods that are there keep theirs.
func TestPodCIDR(t *testing.T) {
	d := node(t)
	ip := func(pod string) netip.Addr {
		t.Helper()
		s, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		a, err := netip.ParseAddr(s.Status.Network.Ip)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	serves := func(name string) string {
		t.Helper()
		config := d.PodConfig(name)
		pod := d.Pod(t, config)
		d.Run(t, pod, nodetest.ContainerConfig(name, "serve", "80"), config)
		d.AwaitLog(t, name, "serving")
		return pod
	}
	answers := func(pod string) {
		t.Helper()
		if got := dial(t, netip.AddrPortFrom(ip(pod), 80).String()); got != "hello from testbox\n" {
			t.Errorf("pod at %s answers %q", ip(pod), got)
		}
	}
	old := serves("old")
	had := ip(old)
	cidr := netip.MustParsePrefix(fmt.Sprintf("10.213.%d.0/24", subnets.Add(1)))
	set := func(text string) error {
		_, err := d.Runtime.UpdateRuntimeConfig(t.Context(), &cri.UpdateRuntimeConfigRequest{
			RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: text}},
		})
		return err
	}
	if err := set(cidr.String()); err != nil {
		t.Fatal(err)
	}
	code(t, set("10.0.0.0/33"), codes.InvalidArgument, "10.0.0.0/33")
	if err := set(""); err != nil { // none of the runtime's business, by contract
		t.Error(err)
	}
	next := serves("next")
	if a := ip(next); !cidr.Contains(a) {
		t.Errorf("the next pod has %s, the range is %s", a, cidr)
	}
	if a := ip(old); a != had {
		t.Errorf("the old pod had %s, now %s", had, a)
	}
	answers(next)
	answers(old)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	later := serves("later")
	answers(later)
	answers(old)
	if a := ip(later); !cidr.Contains(a) {
		t.Errorf("after a restart a pod has %s, the range is %s", a, cidr)
	}
	if c := networkReady(t, d); !c.Status {
		t.Errorf("condition %v", c)
	}
}

// Checkpoints are refused in words; requests that are too large, and calls about
// containers that are no more, are answered and leave the daemon as it was.
func TestRefusedCalls(t *testing.T) {
	d := node(t)
	pod, config := quickPod(t, d, "refusing")
	id := d.Run(t, pod, inHostNet("app", "sleep"), config)
	ctx := t.Context()
	_, err := d.Runtime.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: id, Location: filepath.Join(d.Dir, "c.tar")})
	code(t, err, codes.Unimplemented, "method CheckpointContainer not implemented")
	_, err = d.Runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{})
	code(t, err, codes.Unimplemented, "method CheckpointPod not implemented")
	_, err = d.Runtime.RestorePod(ctx, &cri.RestorePodRequest{})
	code(t, err, codes.Unimplemented, "method RestorePod not implemented")

	c := inHostNet("huge", "sleep")
	c.Envs = []*cri.KeyValue{{Key: "HUGE", Value: []byte(strings.Repeat("x", 17<<20))}}
	_, err = d.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: config})
	code(t, err, codes.ResourceExhausted)

	dead := d.Run(t, pod, inHostNet("dead", "exit", "1"), config)
	d.AwaitExit(t, dead)
	_, err = d.Runtime.Attach(ctx, &cri.AttachRequest{ContainerId: dead, Stdout: true})
	code(t, err, codes.FailedPrecondition, dead, "exited")
	_, err = d.Runtime.Exec(ctx, &cri.ExecRequest{ContainerId: dead, Cmd: []string{tb}, Stdout: true})
	code(t, err, codes.FailedPrecondition, dead, "exited")
	contains(t, "exec", exec(t, d, id, "echo", "as before"), "as before")
}
