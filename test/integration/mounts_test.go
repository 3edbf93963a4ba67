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
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMounts(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "mounts")
	host := t.TempDir()
	if err := os.Chmod(host, 0o755); err != nil {
		t.Fatal(err)
	}
	mustMkdir(t, filepath.Join(host, "dir"), filepath.Join(host, "sub"))
	mustWrite(t, filepath.Join(host, "dir", "file"), "from the host")
	if err := runHost("mount", "-t", "tmpfs", "cri-test", filepath.Join(host, "sub")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := runHost("umount", filepath.Join(host, "sub")); err != nil {
			t.Error(err)
		}
	})
	c := inHostNet("app", "sleep")
	c.Mounts = []*cri.Mount{
		{HostPath: host, ContainerPath: "/rw"},
		{HostPath: host, ContainerPath: "/ro", Readonly: true},
		{HostPath: host, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true},
		{HostPath: filepath.Join(host, "dir", "file"), ContainerPath: "/new/dirs/file"},
	}
	id := d.Run(t, pod, c, p)
	for _, at := range []string{"/rw/dir/file", "/ro/dir/file", "/rro/dir/file", "/new/dirs/file"} {
		contains(t, at, exec(t, d, id, "read", at), "from the host")
	}
	exec(t, d, id, "write", "/rw/back", "to the host")
	if data, err := os.ReadFile(filepath.Join(host, "back")); err != nil || string(data) != "to the host" {
		t.Errorf("what the container wrote: %q, %v", data, err)
	}
	exec(t, d, id, "write", "/rw/sub/x", "y")
	exec(t, d, id, "write", "/ro/sub/x", "y") // plain read-only is of the top mount only
	for _, at := range []string{"/ro/x", "/rro/x", "/rro/sub/x"} {
		if _, stderr, code := d.Exec(t, id, tb, "write", at, "y"); code == 0 || !strings.Contains(stderr, "read-only file system") {
			t.Errorf("writing to %s: %d, %s", at, code, stderr)
		}
	}
	got := d.Status(t, id).Mounts
	if len(got) != len(c.Mounts) || !proto.Equal(got[2], c.Mounts[2]) {
		t.Errorf("status has mounts %v", got)
	}
}

func TestMountPropagation(t *testing.T) {
	d := node(t)
	pod, p := privilegedPod(t, d, "propagation")
	shared := t.TempDir()
	for _, args := range [][]string{{"mount", "-t", "tmpfs", "cri-test", shared}, {"mount", "--make-rshared", shared}} {
		if err := runHost(args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := runHost("umount", "-R", "-l", shared); err != nil {
			t.Error(err)
		}
	})
	mustMkdir(t, filepath.Join(shared, "late"))
	ids := map[string]string{}
	for name, mode := range map[string]cri.MountPropagation{
		"private": cri.MountPropagation_PROPAGATION_PRIVATE, "slave": cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		"shared": cri.MountPropagation_PROPAGATION_BIDIRECTIONAL,
	} {
		c := inHostNet(name, "sleep")
		c.Linux.SecurityContext.Privileged = true
		c.Mounts = []*cri.Mount{{HostPath: shared, ContainerPath: "/mnt", Propagation: mode}}
		ids[name] = d.Run(t, pod, c, p)
	}
	if err := runHost("mount", "-t", "tmpfs", "cri-test", filepath.Join(shared, "late")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(shared, "late", "note"), "came later")
	for name, want := range map[string]bool{"private": false, "slave": true, "shared": true} {
		if _, _, code := d.Exec(t, ids[name], tb, "stat", "/mnt/late/note"); (code == 0) != want {
			t.Errorf("%s: the late mount is seen: %t, want %t", name, code == 0, want)
		}
	}
	for _, line := range []struct{ name, flag string }{{"shared", "shared:"}, {"slave", "master:"}} {
		info := exec(t, d, ids[line.name], "read", "/proc/self/mountinfo")
		found := false
		for l := range strings.Lines(info) {
			found = found || strings.Contains(l, " /mnt ") && strings.Contains(l, line.flag)
		}
		if !found {
			t.Errorf("%s: /mnt is not %s\n%s", line.name, line.flag, info)
		}
	}
}

func TestImageVolumes(t *testing.T) {
	t.Parallel()
	preload := t.TempDir()
	const data = "cri-shim.test/data:1"
	writeLayout(t, preload, nodetest.TestImage, nodetest.TestboxImage(t))
	writeLayout(t, preload, data, fileImage("models/small/weights", "0.1 0.2"))
	d := nodetest.Start(t, fmt.Sprintf("[image]\npreload_dir = %q\n", preload))
	d.AwaitImage(t, data)
	pod, p := quickPod(t, d, "volumes")
	c := inHostNet("app", "sleep")
	c.Mounts = []*cri.Mount{
		{ContainerPath: "/all", Image: &cri.ImageSpec{Image: data}, Readonly: true},
		{ContainerPath: "/sub", Image: &cri.ImageSpec{Image: data}, ImageSubPath: "models/small", Readonly: true},
	}
	id := d.Run(t, pod, c, p)
	contains(t, "whole image", exec(t, d, id, "read", "/all/models/small/weights"), "0.1 0.2")
	contains(t, "sub path", exec(t, d, id, "read", "/sub/weights"), "0.1 0.2")
	if _, stderr, code := d.Exec(t, id, tb, "write", "/all/x", "y"); code == 0 || !strings.Contains(stderr, "read-only file system") {
		t.Errorf("writing to an image: %d, %s", code, stderr)
	}
	if m := d.Status(t, id).Mounts; len(m) != 2 || m[0].Image.GetImage() != data {
		t.Errorf("status has mounts %v", m)
	}
	if _, err := d.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: data}}); err != nil {
		t.Errorf("removal of a mounted image: %v", err)
	}
	contains(t, "after the removal", exec(t, d, id, "read", "/sub/weights"), "0.1 0.2")
	remove(t, d, id)
	removePod(t, d, pod)
	d.NothingLeft(t)
}

func TestDevices(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "devices")
	c := inHostNet("device", "sleep")
	c.Devices = []*cri.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/my-zero", Permissions: "r"}}
	id := d.Run(t, pod, c, p)
	contains(t, "device", exec(t, d, id, "stat", "/dev/my-zero"), "rdev=1:5")

	kind := fmt.Sprintf("cri-shim-test-%d.test/thing", os.Getpid())
	spec := filepath.Join("/var/run/cdi", strings.ReplaceAll(kind, "/", "-")+".json")
	if _, err := os.Stat("/var/run/cdi"); err != nil {
		t.Cleanup(func() { os.Remove("/var/run/cdi") })
	}
	mustMkdir(t, "/var/run/cdi")
	t.Cleanup(func() { os.Remove(spec) })
	mustWrite(t, spec, fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":%q,"devices":[{"name":"one","containerEdits":{
"env":["THING=one"],"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/null"}],"mounts":[{"hostPath":"/etc/hostname","containerPath":"/thing","options":["ro","bind"]}]}}]}`, kind))
	for name, change := range map[string]func(c *cri.ContainerConfig){
		"by-field":      func(c *cri.ContainerConfig) { c.CDIDevices = []*cri.CDIDevice{{Name: kind + "=one"}} },
		"by-annotation": func(c *cri.ContainerConfig) { c.Annotations = map[string]string{"cdi.k8s.io/test": kind + "=one"} },
	} {
		c := inHostNet(name, "sleep")
		change(c)
		id := d.Run(t, pod, c, p)
		contains(t, name, exec(t, d, id, "stat", "/dev/thing", "/thing"), "/dev/thing", "rdev=1:3")
		contains(t, name, exec(t, d, id, "env"), "THING=one")
	}
	missing := inHostNet("missing")
	missing.CDIDevices = []*cri.CDIDevice{{Name: kind + "=two"}}
	refusedContainer(t, d, pod, missing, codes.InvalidArgument, kind+"=two")
}

// A second handler is a second runtime with its own state.
func TestRuntimeHandler(t *testing.T) {
	d := node(t, fmt.Sprintf("[runtime.handlers.second]\npath = %q\n", nodetest.Bin(t, "runc")))
	s, err := d.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, h := range s.RuntimeHandlers {
		names[h.Name] = true
	}
	if byDefault := os.Getenv("CRI_TEST_HANDLER"); byDefault != "" {
		delete(names, byDefault)
	}
	if len(names) != 3 || !names[""] || !names["runc"] || !names["second"] {
		t.Errorf("handlers %v", names)
	}
	config := hostNet(d.PodConfig("handler"))
	r, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: "second"})
	if err != nil {
		t.Fatal(err)
	}
	id := d.Run(t, r.PodSandboxId, inHostNet("app", "sleep"), config)
	contains(t, "exec", exec(t, d, id, "echo", "hi"), "hi")
	st, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: r.PodSandboxId})
	if err != nil || st.Status.RuntimeHandler != "second" {
		t.Errorf("status %v, %v", st, err)
	}
	found, _ := filepath.Glob(filepath.Join(d.Dir, "state", "*", "second", id))
	if len(found) != 1 {
		t.Errorf("the second runtime's state of the container: %v", found)
	}
	removePod(t, d, r.PodSandboxId)
	d.NothingLeft(t)
}
