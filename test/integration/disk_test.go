// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A full disk: what needs space says so, the node says so, what runs goes on,
// and when there is space again all is well.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	d := nodetest.New(t, nodetest.Preload(t))
	root := filepath.Join(d.Dir, "root")
	mustMkdir(t, root)
	if err := runHost("mount", "-t", "tmpfs", "-o", "size=64m", "cri-test", root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := runHost("umount", root); err != nil {
			t.Error(err)
		}
		os.RemoveAll(d.Dir)
	})
	if err := d.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, d.Log())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("daemon log:\n%s", d.Log())
		}
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if err := d.Wipe(t.Context()); err != nil {
			t.Error(err)
		}
	})
	d.AwaitImage(t, nodetest.TestImage)
	pod, config := quickPod(t, d, "before")
	running := d.Run(t, pod, inHostNet("runs", "stubborn"), config)
	if c := condition(t, d, cri.RuntimeReady); !c.Status {
		t.Fatalf("not ready with space: %v", c)
	}
	ballast := filepath.Join(root, "ballast")
	fill(t, ballast)

	if c := condition(t, d, cri.RuntimeReady); c.Status || !strings.Contains(c.Message, root+": filesystem is full") || c.Reason != "RootNotWritable" {
		t.Errorf("condition on a full disk: %v", c)
	}
	_, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: hostNet(d.PodConfig("full"))})
	full(t, err)
	_, err = d.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: inHostNet("full")})
	full(t, err)
	if s := d.Status(t, running); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the running container: %v", s)
	}
	contains(t, "exec on a full disk", exec(t, d, running, "echo", "still here"), "still here")

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if c := condition(t, d, cri.RuntimeReady); !c.Status {
		t.Errorf("condition with space again: %v", c)
	}
	after, afterConfig := quickPod(t, d, "full")
	contains(t, "log", output(t, d, after, inHostNet("after", "echo", "all is well"), afterConfig), "all is well")
	removePod(t, d, after)
	removePod(t, d, pod)
	for _, dir := range []string{"records/pods", "records/containers", "pods", "containers"} {
		if entries, err := os.ReadDir(filepath.Join(root, dir)); err == nil && len(entries) > 0 {
			t.Errorf("%s still holds %v", dir, entries)
		}
	}
}

func full(t *testing.T, err error) {
	t.Helper()
	if c := status.Code(err); c != codes.ResourceExhausted {
		t.Errorf("code %s, want ResourceExhausted: %v", c, err)
	}
	if err != nil {
		contains(t, "error", err.Error(), "no space left")
	}
}

// fill writes zeros until there is no byte left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, chunk := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, chunk))
		}
	}
	if !strings.Contains(fmt.Sprint(err), "no space left") {
		t.Fatal(err)
	}
}
