// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

const (
	tb       = "/bin/testbox"
	patience = 10 * time.Second
)

// node is a daemon with the test image, shared by the parts of one test. Tests
// of different nodes run side by side.
func node(t *testing.T, extra ...string) *nodetest.Node {
	t.Helper()
	t.Parallel()
	return nodetest.Start(t, append(extra, nodetest.Preload(t))...)
}

// edited starts a daemon whose configuration file change has edited.
func edited(t *testing.T, change func(d *nodetest.Node, config string) string, extra ...string) *nodetest.Node {
	t.Helper()
	d := nodetest.New(t, extra...)
	data, err := os.ReadFile(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Config, []byte(change(d, string(data))), 0o600); err != nil {
		t.Fatal(err)
	}
	d.StartFor(t)
	return d
}

// hostNet makes a pod cheap where the test is not about its network.
func hostNet(c *cri.PodSandboxConfig) *cri.PodSandboxConfig {
	c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	return c
}

// inHostNet is a container of such a pod.
func inHostNet(name string, args ...string) *cri.ContainerConfig {
	c := nodetest.ContainerConfig(name, args...)
	c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	return c
}

// quickPod is a host-network pod for the length of the test.
func quickPod(t *testing.T, d *nodetest.Node, name string) (string, *cri.PodSandboxConfig) {
	t.Helper()
	config := hostNet(d.PodConfig(name))
	return d.Pod(t, config), config
}

// output runs a container of host-network pod to its end and returns its log;
// it must end with 0.
func output(t *testing.T, d *nodetest.Node, pod string, c *cri.ContainerConfig, p *cri.PodSandboxConfig) string {
	t.Helper()
	id := d.Run(t, pod, c, p)
	st := d.AwaitExit(t, id)
	out := d.LogOf(t, c.Metadata.Name)
	if st.ExitCode != 0 {
		t.Errorf("%s ended with %d (%s): %s", c.Metadata.Name, st.ExitCode, st.Message, out)
	}
	return out
}

// exec runs testbox in a container; it must succeed.
func exec(t *testing.T, d *nodetest.Node, id string, args ...string) string {
	t.Helper()
	out, stderr, code := d.Exec(t, id, append([]string{tb}, args...)...)
	if code != 0 {
		t.Errorf("testbox %v: code %d, %s%s", args, code, out, stderr)
	}
	return out
}

func contains(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s: no %q in\n%s", what, w, text)
		}
	}
}

func remove(t *testing.T, d *nodetest.Node, container string) {
	t.Helper()
	if _, err := d.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: container}); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
}

func removePod(t *testing.T, d *nodetest.Node, pod string) {
	t.Helper()
	if _, err := d.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Errorf("RemovePodSandbox: %v", err)
	}
}

// infoOf is the verbose info of a container.
type infoOf struct {
	PID         int    `json:"pid"`
	CgroupsPath string `json:"cgroupsPath"`
	Rootfs      string `json:"rootfs"`
	RuntimeSpec struct {
		Hostname string `json:"hostname"`
	} `json:"runtimeSpec"`
}

func info(t *testing.T, d *nodetest.Node, container string) infoOf {
	t.Helper()
	r, err := d.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: container, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var i infoOf
	if err := json.Unmarshal([]byte(r.Info["info"]), &i); err != nil {
		t.Fatal(err)
	}
	return i
}

// cgroupFile reads a file of a container's cgroup, by its name in v1 or v2.
func cgroupFile(t *testing.T, path, v1Controller, v1, v2 string) string {
	t.Helper()
	path = cgroup.Path(path)
	file := filepath.Join("/sys/fs/cgroup", path, v2)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		file = filepath.Join("/sys/fs/cgroup", v1Controller, path, v1)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(data))
}

func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }

// refusedPod checks that a pod is not made.
func refusedPod(t *testing.T, d *nodetest.Node, c *cri.PodSandboxConfig, handler string, want codes.Code, mention ...string) {
	t.Helper()
	r, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: c, RuntimeHandler: handler})
	code(t, err, want, mention...)
	if err == nil {
		removePod(t, d, r.PodSandboxId)
	}
}

// refusedContainer checks that a container is not made.
func refusedContainer(t *testing.T, d *nodetest.Node, pod string, c *cri.ContainerConfig, want codes.Code, mention ...string) {
	t.Helper()
	r, err := d.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c})
	code(t, err, want, mention...)
	if err == nil {
		remove(t, d, r.ContainerId)
	}
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustMkdir(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// runHost runs a program of this machine.
func runHost(name string, args ...string) error {
	out, err := osexec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// ownerOf is a file's user id on the host.
func ownerOf(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
