// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A host path that is missing is made, as a directory that anybody may enter.
func TestMissingHostPathIsMade(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "hostpath")
	host := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(host, "dangling")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(host, "file"), "")
	c := inHostNet("app", "sleep")
	c.Mounts = []*cri.Mount{
		{HostPath: filepath.Join(host, "a/b"), ContainerPath: "/data"},
		{HostPath: filepath.Join(host, "a/c") + "/", ContainerPath: "/data/inner", Readonly: true},
	}
	id := d.Run(t, pod, c, p)
	exec(t, d, id, "write", "/data/file", "from the container")
	if data, err := os.ReadFile(filepath.Join(host, "a/b/file")); err != nil || string(data) != "from the container" {
		t.Errorf("on the host: %q, %v", data, err)
	}
	for _, dir := range []string{"a", "a/b", "a/c"} {
		if fi, err := os.Stat(filepath.Join(host, dir)); err != nil || fi.Mode() != os.ModeDir|0o755 || ownerOf(fi) != 0 {
			t.Errorf("%s is %v, %v", dir, fi.Mode(), err)
		}
	}
	for path, cause := range map[string]string{"dangling": "dangling", "dangling/below": "dangling", "file/below": "file/below"} {
		c := inHostNet("refused", "sleep")
		c.Mounts = []*cri.Mount{{HostPath: filepath.Join(host, path), ContainerPath: "/data"}}
		refusedContainer(t, d, pod, c, codes.InvalidArgument, "/data", filepath.Join(host, cause))
	}
	remove(t, d, id)
	if _, err := os.Stat(filepath.Join(host, "a/b/file")); err != nil {
		t.Errorf("after the container's removal: %v", err)
	}
	removePod(t, d, pod)
	d.NothingLeft(t)
}

// Log directories are made: the pod's with the pod, the container's with the container and once more at its start.
func TestLogDirectoryIsMade(t *testing.T) {
	d := node(t)
	logs := filepath.Join(d.Dir, "new", "logs")
	config := hostNet(d.PodConfig("logs"))
	config.LogDirectory = logs
	pod := d.Pod(t, config)
	if fi, err := os.Stat(logs); err != nil || fi.Mode() != os.ModeDir|0o755 {
		t.Fatalf("the pod's log directory: %v, %v", fi, err)
	}
	if err := os.RemoveAll(filepath.Dir(logs)); err != nil {
		t.Fatal(err)
	}
	c := inHostNet("app", "echo", "hello")
	c.LogPath = "app/0/../1.log"
	id := d.Create(t, pod, c, config)
	if fi, err := os.Stat(filepath.Join(logs, "app")); err != nil || fi.Mode() != os.ModeDir|0o755 {
		t.Fatalf("the container's log directory: %v, %v", fi, err)
	}
	if err := os.RemoveAll(filepath.Dir(logs)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	d.AwaitExit(t, id)
	text, err := os.ReadFile(filepath.Join(logs, "app/1.log"))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "log", string(text), "stdout F hello")

	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(logs, "out")); err != nil {
		t.Fatal(err)
	}
	c = inHostNet("escapes", "sleep")
	c.LogPath = "out/deep/1.log"
	refusedContainer(t, d, pod, c, codes.FailedPrecondition, filepath.Join(logs, "out"))
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made outside of the log directory: %v, %v", left, err)
	}
}

// A container goes by what its request says of the pod: one for debugging may be privileged in a pod that was not. What
// was made with the pod stays: its namespaces and its cgroup.
func TestPrivilegedContainerComesLater(t *testing.T) {
	d := node(t)
	config := hostNet(d.PodConfig("debugged"))
	pod := d.Pod(t, config)
	first := d.Run(t, pod, inHostNet("app", "sleep"), config)
	debug := inHostNet("debug", "sleep")
	debug.Linux.SecurityContext.Privileged = true
	refusedContainer(t, d, pod, debug, codes.InvalidArgument, "privileged")

	now := clone(config)
	now.Linux.SecurityContext.Privileged = true
	now.Linux.CgroupParent = "/cri-elsewhere"
	now.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_NODE}
	id := d.Run(t, pod, debug, now)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := field(t, exec(t, d, id, "read", "/proc/self/status"), "CapEff"), field(t, string(own), "CapBnd"); got != want {
		t.Errorf("capabilities %x, want all: %x", got, want)
	}
	if a, b := filepath.Dir(info(t, d, first).CgroupsPath), filepath.Dir(info(t, d, id).CgroupsPath); a != b {
		t.Errorf("cgroups below %s and %s", a, b)
	}
	debug.Metadata.Name, debug.Devices = "broken", []*cri.Device{{HostPath: "/dev/no-such", ContainerPath: "/dev/x"}}
	_, err = d.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: now, Config: debug})
	code(t, err, codes.InvalidArgument, "/dev/no-such", "build spec")
	if err == nil {
		return
	}
	if n := strings.Count(err.Error(), "build spec"); n != 1 {
		t.Errorf("the step is named %d times: %v", n, err)
	}
}
