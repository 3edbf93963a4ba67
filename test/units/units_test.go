// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package units runs the daemon and its monitor as systemd's units, the way `make install` installs them, and does to
// them what happens on a node: restarts, kills, reloads, a reload of systemd itself, a restart of D-Bus, a reboot. It
// changes the machine it runs on, so it runs only where $CRI_TEST_UNITS says that the machine is there for it.
package units

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

const (
	socket  = "/run/cri-shim/cri-shim.sock"
	place   = "/var/lib/cri-test" // what must outlast a reboot
	daemon  = "cri-shim.service"
	monitor = "cri-monitor.service"
)

// attach is a client of the daemon that systemd runs. The first one of a machine starts both units.
func attach(t *testing.T) *nodetest.Node {
	t.Helper()
	if os.Getenv("CRI_TEST_UNITS") == "" {
		t.Skip("needs a machine of its own with systemd and our units: make machine-systemd")
	}
	configure(t)
	systemctl(t, "start", monitor, daemon)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	n := &nodetest.Node{
		Node:   &node.Node{Runtime: cri.NewRuntimeServiceClient(conn), Images: cri.NewImageServiceClient(conn)},
		LogDir: t.TempDir(),
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "-b", "--no-pager", "-n", "200", "-u", daemon, "-u", monitor).CombinedOutput()
			t.Logf("%s", out)
		}
	})
	n.AwaitImage(t, nodetest.TestImage)
	return n
}

// configure writes what a node's owner would: images that are there from the start, and a network.
func configure(t *testing.T) {
	t.Helper()
	const file = "/etc/cri-shim/config.toml"
	if _, err := os.Stat(file); err == nil {
		return
	}
	images := filepath.Join(place, "images")
	_, err := ocilayout.Write(filepath.Join(images, "testbox"), nodetest.TestImage, nodetest.TestboxImage(t))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, fmt.Appendf(nil, "[image]\npreload_dir = %q\n[cni]\ndefault_network = true\n", images), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func systemctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func property(t testing.TB, unit, name string) string {
	t.Helper()
	return systemctl(t, "show", "--value", "--property", name, unit)
}

// pod is a pod of a kubelet that leaves cgroups to systemd.
func pod(n *nodetest.Node, name string) *cri.PodSandboxConfig {
	config := n.PodConfig(name)
	config.Linux.CgroupParent = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" +
		strings.ReplaceAll(config.Metadata.Uid, "-", "_") + ".slice"
	return config
}

// TestScopes: a pod's cgroups are systemd's own, with the limits that were asked for, and no unit outlives it.
func TestScopes(t *testing.T) {
	n := attach(t)
	config := pod(n, "scopes")
	id := n.Pod(t, config)
	c := nodetest.ContainerConfig("app", "sleep")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuQuota: 50000, CpuPeriod: 100000, CpuShares: 512}
	container := n.Run(t, id, c, config)

	slice := filepath.Base(config.Linux.CgroupParent)
	scopes := strings.Fields(systemctl(t, "list-units", "--plain", "--no-legend", "--type=scope", "*"+container+"*", "*"+id+"*"))
	if text := strings.Join(scopes, " "); !strings.Contains(text, container) || !strings.Contains(text, id) {
		t.Fatalf("scopes %q, want one of the pod and one of the container", text)
	}
	scope := scopeOf(t, container)
	for name, want := range map[string]string{
		"Slice": slice, "MemoryMax": fmt.Sprint(64 << 20), "CPUQuotaPerSecUSec": "500ms", "Delegate": "yes", "ActiveState": "active",
	} {
		if got := property(t, scope, name); got != want {
			t.Errorf("%s of %s is %q, want %q", name, scope, got, want)
		}
	}
	if _, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 10*time.Second, "the scopes are gone", func() bool {
		return systemctl(t, "list-units", "--all", "--plain", "--no-legend", "--type=scope", "*"+container+"*", "*"+id+"*") == ""
	})
}

func scopeOf(t *testing.T, id string) string {
	t.Helper()
	f := strings.Fields(systemctl(t, "list-units", "--plain", "--no-legend", "--type=scope", "*"+id+"*"))
	if len(f) == 0 {
		t.Fatalf("no scope of %s", id)
	}
	return f[0]
}

// TestUnitsOnTheMove: a container runs on, is written down and ends with its code whatever happens to the units.
func TestUnitsOnTheMove(t *testing.T) {
	both := []string{"kill", "--signal=KILL", daemon, monitor}
	for _, c := range []struct {
		name string
		do   []string
	}{
		{"restart of the daemon", []string{"restart", daemon}},
		{"kill of the daemon", []string{"kill", "--signal=KILL", daemon}},
		{"reload of the monitor", []string{"reload", monitor}},
		{"kill of the monitor", []string{"kill", "--signal=KILL", monitor}},
		{"restart of the monitor", []string{"restart", monitor}},
		{"kill of both", both},
		{"reload of systemd", []string{"daemon-reload"}},
		{"systemd executed anew", []string{"daemon-reexec"}},
		{"restart of D-Bus", []string{"restart", "dbus.service"}},
		{"no D-Bus", []string{"stop", "dbus.socket", "dbus.service"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := attach(t)
			config := pod(n, "moves")
			id := n.Pod(t, config)
			container := n.Run(t, id, nodetest.ContainerConfig("lines", "lines", "0", "50"), config)
			n.AwaitLog(t, "lines", "line 1")
			before := pidOf(t, n, container)
			systemctl(t, c.do...)
			t.Cleanup(func() { systemctl(t, "start", "dbus.socket", "dbus.service") })
			await(t, n)
			if after := pidOf(t, n, container); after != before {
				t.Errorf("process %d, before it was %d", after, before)
			}
			marks := strings.Count(n.LogOf(t, "lines"), "\n")
			n.AwaitLog(t, "lines", fmt.Sprintf("line %d", marks+3))
			unbroken(t, n.LogOf(t, "lines"))
			if out, _, code := n.Exec(t, container, "/bin/testbox", "echo", "here"); code != 0 || !strings.Contains(out, "here") {
				t.Errorf("exec: %q, %d", out, code)
			}
			short := n.Run(t, id, nodetest.ContainerConfig("short", "exit", "7"), config)
			if st := n.AwaitExit(t, short); st.ExitCode != 7 {
				t.Errorf("exit code %d, want 7", st.ExitCode)
			}
			if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: container, Timeout: 5}); err != nil {
				t.Error(err)
			}
			if st := n.Status(t, container); st.State != cri.ContainerState_CONTAINER_EXITED {
				t.Errorf("stopped, it is %s", st.State)
			}
		})
	}
}

// await waits until the daemon answers and is ready: it may have been killed a moment ago.
func await(t *testing.T, n *nodetest.Node) {
	t.Helper()
	nodetest.Eventually(t, time.Minute, "both units are active and the runtime is ready", func() bool {
		out, _ := exec.Command("systemctl", "is-active", daemon, monitor).CombinedOutput()
		if strings.TrimSpace(string(out)) != "active\nactive" {
			return false
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		answer, err := n.Runtime.Status(ctx, &cri.StatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return false
		}
		for _, c := range answer.Status.Conditions {
			if c.Type == "RuntimeReady" && !c.Status {
				return false
			}
		}
		return true
	})
}

func pidOf(t *testing.T, n *nodetest.Node, id string) int {
	t.Helper()
	answer, err := n.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(answer.Info["info"]), &info); err != nil || info.PID == 0 {
		t.Fatalf("info %q: %v", answer.Info["info"], err)
	}
	return info.PID
}

// unbroken fails when a line of those that `testbox lines` writes is missing, or there twice.
func unbroken(t *testing.T, log string) {
	t.Helper()
	next := 1
	for line := range strings.Lines(log) {
		if want := fmt.Sprintf("line %d\n", next); line != want {
			t.Fatalf("line %q of the log, want %q", line, want)
		}
		next++
	}
}

// TestStartsUnderReloads: systemd forgets nothing that is being started while it reads its units again, and a D-Bus that
// goes away in the middle costs an attempt, which says that it is worth another.
func TestStartsUnderReloads(t *testing.T) {
	for name, disturb := range map[string][]string{"daemon-reload": {"daemon-reload"}, "restart of D-Bus": {"restart", "dbus.service"}} {
		t.Run(name, func(t *testing.T) {
			n := attach(t)
			ctx, cancel := context.WithCancel(t.Context())
			times, ended := 0, make(chan error, 1)
			go func() { // ends with ctx
				var err error
				for ; ctx.Err() == nil && err == nil; times++ {
					_, err = exec.CommandContext(ctx, "systemctl", disturb...).Output()
				}
				ended <- err
			}()
			for i := range 5 {
				config := pod(n, fmt.Sprintf("reload-%d", i))
				id := retried(t, func() (string, error) {
					r, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
					return r.GetPodSandboxId(), err
				})
				t.Cleanup(func() {
					n.Runtime.RemovePodSandbox(context.Background(), &cri.RemovePodSandboxRequest{PodSandboxId: id})
				})
				c := retried(t, func() (string, error) { return started(t, n, id, config, "exit", "4") })
				if st := n.AwaitExit(t, c); st.ExitCode != 4 {
					t.Errorf("exit code %d, want 4", st.ExitCode)
				}
			}
			cancel()
			if err := <-ended; err != nil && !errors.Is(ctx.Err(), context.Canceled) {
				t.Error(err)
			}
			t.Logf("%d times beside 5 pods", times)
		})
	}
}

// retried is what do gives in the end; Unavailable is the one error after which the kubelet's next attempt may succeed.
func retried(t *testing.T, do func() (string, error)) string {
	t.Helper()
	for attempt := 1; ; attempt++ {
		id, err := do()
		if err == nil {
			return id
		}
		if status.Code(err) != codes.Unavailable || attempt == 20 {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		t.Logf("attempt %d: %v", attempt, err)
	}
}

// started is a new container that was started; one that was not is removed.
func started(t *testing.T, n *nodetest.Node, pod string, config *cri.PodSandboxConfig, args ...string) (string, error) {
	id := n.Create(t, pod, nodetest.ContainerConfig("app", args...), config)
	_, err := n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
	if err != nil {
		if _, removed := n.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id}); removed != nil {
			t.Fatalf("remove what was not started: %v", removed)
		}
	}
	return id, err
}

// TestBeforeReboot leaves a pod on the machine for TestAfterReboot.
func TestBeforeReboot(t *testing.T) {
	n := attach(t)
	systemctl(t, "enable", monitor, daemon)
	config := pod(n, "reboots")
	r, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	n.Run(t, r.PodSandboxId, nodetest.ContainerConfig("app", "sleep"), config)
}

// TestAfterReboot: what ran before is known, ended and can be removed, and the node starts pods again.
func TestAfterReboot(t *testing.T) {
	n := attach(t)
	pods, err := n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("pods %v (%v), want the one of before, not ready", pods.GetItems(), err)
	}
	list, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{})
	if err != nil || len(list.Containers) != 1 || list.Containers[0].State != cri.ContainerState_CONTAINER_EXITED {
		t.Fatalf("containers %v (%v), want the one of before, exited", list.GetContainers(), err)
	}
	if _, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: pods.Items[0].Id}); err != nil {
		t.Error(err)
	}
	config := pod(n, "after")
	id := n.Pod(t, config)
	if st := n.AwaitExit(t, n.Run(t, id, nodetest.ContainerConfig("app", "exit", "3"), config)); st.ExitCode != 3 {
		t.Errorf("exit code %d, want 3", st.ExitCode)
	}
}
