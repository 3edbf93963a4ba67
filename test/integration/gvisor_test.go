// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// withGVisor is a daemon with gVisor's runtime as the handler gvisor.
func withGVisor(t *testing.T) *nodetest.Node {
	t.Helper()
	runsc, err := filepath.Abs("../../.cache/runsc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(runsc); err != nil {
		if runsc, err = osexec.LookPath("runsc"); err != nil {
			t.Skip("needs gVisor's runsc: make gvisor builds it, in about 5 minutes")
		}
	}
	return node(t, fmt.Sprintf("[runtime.handlers.gvisor]\npath = %q\nkind = \"gvisor\"\n", runsc))
}

func gvisorPod(t *testing.T, d *nodetest.Node, name string) (string, *cri.PodSandboxConfig) {
	t.Helper()
	config := d.PodConfig(name)
	r, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: "gvisor"})
	if err != nil {
		t.Fatal(err)
	}
	return r.PodSandboxId, config
}

// TestGVisor: the life of a pod with two containers in a kernel of its own.
func TestGVisor(t *testing.T) {
	d := withGVisor(t)
	pod, config := gvisorPod(t, d, "sandbox")
	id := d.Run(t, pod, nodetest.ContainerConfig("lives", "lines", "0", "20"), config)
	other := d.Run(t, pod, nodetest.ContainerConfig("ends", "exit", "3"), config)
	d.AwaitLog(t, "lives", "line 3")
	if st := d.AwaitExit(t, other); st.ExitCode != 3 || st.Reason != "Error" {
		t.Errorf("status %v", st)
	}
	contains(t, "exec", exec(t, d, id, "echo", "hello"), "hello")
	contains(t, "kernel", exec(t, d, id, "read", "/proc/version"), "Linux version")
	if out := exec(t, d, id, "read", "/proc/sys/kernel/osrelease"); strings.TrimSpace(out) == hostRelease(t) {
		t.Errorf("it runs on the kernel of this machine, %s", out)
	}
	if _, stderr, code := d.Exec(t, id, tb, "err", "said"); code != 0 || stderr != "said\n" {
		t.Errorf("exec ended with %d, stderr %q", code, stderr)
	}
	if _, _, code := d.Exec(t, id, tb, "exit", "7"); code != 7 {
		t.Errorf("exec ended with %d", code)
	}
	s, err := d.Runtime.ContainerStats(t.Context(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || s.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || s.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("statistics %v, %v", s, err)
	}
	p, err := d.Runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil || p.Stats.GetLinux().GetMemory().GetWorkingSetBytes().GetValue() == 0 || p.Stats.GetLinux().GetNetwork().GetDefaultInterface().GetName() != "eth0" {
		t.Errorf("statistics %v, %v", p, err)
	}
	_, err = d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such/program"}})
	code(t, err, codes.InvalidArgument, "/no/such/program")
	missing := nodetest.ContainerConfig("missing")
	missing.Command = []string{"/no-such-program"}
	_, err = d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: d.Create(t, pod, missing, config)})
	code(t, err, codes.InvalidArgument, "no-such-program")
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// TestGVisorStop: a stop signal reaches the container, SIGKILL the one that ignores
// it, and a command that is given up ends with what it started.
func TestGVisorStop(t *testing.T) {
	d := withGVisor(t)
	pod, config := gvisorPod(t, d, "stop")
	polite := d.Run(t, pod, nodetest.ContainerConfig("polite", "sleep", "1000"), config)
	stubborn := d.Run(t, pod, nodetest.ContainerConfig("stubborn", "stubborn"), config)
	_, err := d.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: polite, Cmd: []string{tb, "sleep", "1000"}, Timeout: 1})
	code(t, err, codes.DeadlineExceeded)
	for id, within := range map[string]time.Duration{polite: 60 * time.Second, stubborn: 2 * time.Second} {
		if _, err := d.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: int64(within.Seconds())}); err != nil {
			t.Error(err)
		}
	}
	if st := d.AwaitExit(t, stubborn); st.ExitCode != 137 {
		t.Errorf("status %v", st)
	}
	if st := d.AwaitExit(t, polite); st.ExitCode == 137 || st.Reason == "Unknown" {
		t.Errorf("status %v", st)
	}
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// TestGVisorRestart: containers and their exit codes outlive the daemon, the monitor
// and both.
func TestGVisorRestart(t *testing.T) {
	d := withGVisor(t)
	pod, config := gvisorPod(t, d, "restart")
	id := d.Run(t, pod, nodetest.ContainerConfig("lives", "lines", "0", "20"), config)
	bounce(t, d, false, func() {})
	contains(t, "exec", exec(t, d, id, "echo", "hello"), "hello")
	later := d.Run(t, pod, nodetest.ContainerConfig("later", "say", "20", "5"), config)
	bounce(t, d, true, func() {})
	if st := d.AwaitExit(t, later); st.ExitCode != 5 {
		t.Errorf("status %v", st)
	}
	contains(t, "exec", exec(t, d, id, "echo", "again"), "again")
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// TestGVisorPortForward: the network is in the sandbox, the pod's namespace has no
// address to dial.
func TestGVisorPortForward(t *testing.T) {
	d := withGVisor(t)
	pod, config := gvisorPod(t, d, "forward")
	forwards(t, d, pod, config)
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// TestGVisorRefusals: what a sandbox cannot give is refused by name.
func TestGVisorRefusals(t *testing.T) {
	d := withGVisor(t)
	refusedPod(t, d, hostNet(d.PodConfig("host-network")), "gvisor", codes.InvalidArgument, "namespace_options.network", "gvisor")
	hostPID := d.PodConfig("host-pid")
	hostPID.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_NODE
	refusedPod(t, d, hostPID, "gvisor", codes.InvalidArgument, "namespace_options.pid")
	pod, config := gvisorPod(t, d, "refuses")
	target := nodetest.ContainerConfig("target", "sleep", "1000")
	target.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: d.Run(t, pod, nodetest.ContainerConfig("lives", "sleep", "1000"), config)}
	refusedContainer(t, d, pod, target, codes.InvalidArgument, "namespace_options.pid")
	removePod(t, d, pod)
	d.NothingLeft(t)
}

func hostRelease(t *testing.T) string {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(release))
}
