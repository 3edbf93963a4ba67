// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// TestImage is the name of the image whose one program is testbox.
const TestImage = "cri-shim.test/testbox:1"

// Preload writes the test image as an OCI layout and returns the configuration
// that makes a daemon import it. More images can be added to the directory.
func Preload(t testing.TB) (config string) {
	t.Helper()
	dir := t.TempDir()
	if _, err := ocilayout.Write(filepath.Join(dir, "testbox"), TestImage, TestboxImage(t)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("[image]\npreload_dir = %q\n", dir)
}

// TestboxImage is the image around bin/testbox.
func TestboxImage(t testing.TB) ocilayout.Image {
	return ocilayout.Image{
		Layers: []ocilayout.Layer{{
			{Path: "bin", Dir: true},
			{Path: "etc", Dir: true},
			{Path: "tmp", Dir: true, Mode: os.ModeSticky | 0o777},
			{Path: "bin/testbox", Mode: 0o755, Source: Bin(t, "testbox")},
			{Path: "etc/passwd", Content: []byte("root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n")},
			{Path: "etc/group", Content: []byte("root:x:0:\nweb:x:1001:\nextra:x:2000:web\n")},
		}},
		Config: ocispec.ImageConfig{Entrypoint: []string{"/bin/testbox"}, Cmd: []string{"sleep"}, Env: []string{"FROM_IMAGE=yes"}},
	}
}

var serial atomic.Int64

// PodConfig is a pod with a network of its own and a log directory.
func (n *Node) PodConfig(name string) *cri.PodSandboxConfig {
	uid := fmt.Sprintf("uid-%d-%d", os.Getpid(), serial.Add(1))
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: uid},
		Hostname: name, LogDirectory: n.LogDir, Labels: map[string]string{"test": name},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    n.podSlice(uid),
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
}

// ContainerConfig runs testbox with args.
func ContainerConfig(name string, args ...string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: TestImage},
		Args: args, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
}

// Pod runs a pod for the length of the test.
func (n *Node) Pod(t testing.TB, config *cri.PodSandboxConfig) string {
	t.Helper()
	r, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: r.PodSandboxId})
		if _, err := n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil && n.Running() {
			t.Errorf("RemovePodSandbox: %v", err)
		}
	})
	return r.PodSandboxId
}

// Create makes a container.
func (n *Node) Create(t testing.TB, pod string, c *cri.ContainerConfig, p *cri.PodSandboxConfig) string {
	t.Helper()
	r, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
	if err != nil {
		t.Fatalf("CreateContainer: %v", err)
	}
	return r.ContainerId
}

// Run makes and starts a container.
func (n *Node) Run(t testing.TB, pod string, c *cri.ContainerConfig, p *cri.PodSandboxConfig) string {
	t.Helper()
	id := n.Create(t, pod, c, p)
	if _, err := n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatalf("StartContainer: %v", err)
	}
	return id
}

// Status is a container's status.
func (n *Node) Status(t testing.TB, id string) *cri.ContainerStatus {
	t.Helper()
	r, err := n.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatalf("ContainerStatus: %v", err)
	}
	return r.Status
}

// AwaitExit waits until the container has exited and returns its status.
func (n *Node) AwaitExit(t testing.TB, id string) *cri.ContainerStatus {
	t.Helper()
	var last *cri.ContainerStatus
	Eventually(t, 20*time.Second, "container exits", func() bool {
		last = n.Status(t, id)
		return last.State == cri.ContainerState_CONTAINER_EXITED
	})
	return last
}

// LogOf is the text of a container's log, without time stamps, P parts joined.
func (n *Node) LogOf(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.LogDir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(parts) != 4 {
			t.Fatalf("log line %q is no CRI log line", line)
		}
		b.WriteString(parts[3])
		if parts[2] == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// AwaitLog waits until the container's log holds text.
func (n *Node) AwaitLog(t testing.TB, name, text string) {
	t.Helper()
	Eventually(t, 10*time.Second, fmt.Sprintf("log of %s holds %q", name, text), func() bool {
		data, _ := os.ReadFile(filepath.Join(n.LogDir, name+".log"))
		return strings.Contains(string(data), text)
	})
}

// Exec runs a command in a container and returns its output and exit code.
func (n *Node) Exec(t testing.TB, id string, args ...string) (stdout, stderr string, code int32) {
	t.Helper()
	r, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{
		ContainerId: id, Cmd: args, Timeout: int64(node.Patience(time.Minute).Seconds()),
	})
	if err != nil {
		t.Fatalf("ExecSync %v: %v", args, err)
	}
	return string(r.Stdout), string(r.Stderr), r.ExitCode
}
