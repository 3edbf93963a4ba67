// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func requireSELinux(t *testing.T) {
	t.Helper()
	nodetest.Require(t)
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		t.Skip("needs SELinux: make machine-selinux")
	}
}

// labelled is a pod with a container that runs, and the label of the container's process.
func labelled(t *testing.T, d *nodetest.Node, name string, o *cri.SELinuxOption, change ...func(*cri.ContainerConfig)) (process, id string) {
	t.Helper()
	config := hostNet(d.PodConfig(name))
	config.Linux.SecurityContext.SelinuxOptions = o
	pod := d.Pod(t, config)
	c := inHostNet(name, "sleep")
	for _, do := range change {
		do(c)
	}
	c.Args = []string{"lines", "0", "1000"}
	id = d.Run(t, pod, c, config)
	d.AwaitLog(t, name, "line 1")
	return strings.TrimRight(exec(t, d, id, "read", "/proc/1/attr/current"), "\x00\n"), id
}

func fileLabel(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", buf)
	if err != nil {
		t.Fatalf("label of %s: %v", path, err)
	}
	return strings.TrimRight(string(buf[:n]), "\x00")
}

// level is the last part of a label: s0:c1,c2.
func level(label string) string {
	parts := strings.SplitN(label, ":", 4)
	return parts[len(parts)-1]
}

// TestSELinuxLabels: processes run as containers do by the policy, at a level that no other pod has or that the pod names,
// and so do what is executed in them and what they write.
func TestSELinuxLabels(t *testing.T) {
	requireSELinux(t)
	d := node(t)
	one, id := labelled(t, d, "one", nil)
	two, _ := labelled(t, d, "two", nil)
	for _, label := range []string{one, two} {
		if !strings.Contains(label, ":container_t:s0:c") {
			t.Errorf("process label %q, want the type container_t and two categories", label)
		}
	}
	if level(one) == level(two) {
		t.Errorf("both pods are at level %s", level(one))
	}
	if got := strings.TrimRight(exec(t, d, id, "read", "/proc/self/attr/current"), "\x00\n"); got != one {
		t.Errorf("a command runs as %q, the container as %q", got, one)
	}
	exec(t, d, id, "write", "/tmp/written", "x")
	if got := fileLabel(t, filepath.Join(d.Layout().RootFS(state.ContainerID(id)), "tmp/written")); level(got) != level(one) || !strings.Contains(got, ":container_file_t:") {
		t.Errorf("a file that the container wrote has the label %q", got)
	}
	named, _ := labelled(t, d, "named", &cri.SELinuxOption{Level: "s0:c123,c456"})
	if level(named) != "s0:c123,c456" {
		t.Errorf("process label %q, want the level that the pod names", named)
	}
	own, _ := labelled(t, d, "own", nil, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.SelinuxOptions = &cri.SELinuxOption{Level: "s0:c7,c8"}
	})
	if level(own) != "s0:c7,c8" {
		t.Errorf("process label %q, want the level that the container names", own)
	}
	pod, config := privilegedPod(t, d, "privileged")
	c := inHostNet("privileged", "read", "/proc/self/attr/current")
	c.Linux.SecurityContext.Privileged = true
	if label := output(t, d, pod, c, config); strings.Contains(label, ":container_t:") {
		t.Errorf("a privileged container runs confined, as %q", label)
	}
}

// TestSELinuxMounts: a folder of the node is closed to a container until it is relabelled, and then open to its pod alone.
func TestSELinuxMounts(t *testing.T) {
	requireSELinux(t)
	d := node(t)
	dir := filepath.Join(d.Dir, "folder")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "below/file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	mounted := func(relabel bool) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/folder", SelinuxRelabel: relabel}}
		}
	}
	before := fileLabel(t, filepath.Join(dir, "below/file"))
	_, plain := labelled(t, d, "plain", nil, mounted(false))
	if _, stderr, code := d.Exec(t, plain, tb, "read", "/folder/below/file"); code == 0 || !strings.Contains(stderr, "permission denied") {
		t.Errorf("a folder that was not relabelled: %d, %q", code, stderr)
	}
	if got := fileLabel(t, filepath.Join(dir, "below/file")); got != before {
		t.Errorf("label %q without relabelling, before it was %q", got, before)
	}
	process, open := labelled(t, d, "open", nil, mounted(true))
	contains(t, "relabelled", exec(t, d, open, "read", "/folder/below/file"), "content")
	exec(t, d, open, "write", "/folder/new", "x")
	for _, name := range []string{"", "below", "below/file", "new"} {
		if got := fileLabel(t, filepath.Join(dir, name)); level(got) != level(process) || !strings.Contains(got, ":container_file_t:") {
			t.Errorf("%q has the label %q, the pod runs as %q", name, got, process)
		}
	}
	_, other := labelled(t, d, "other", nil, mounted(false))
	if _, _, code := d.Exec(t, other, tb, "read", "/folder/below/file"); code == 0 {
		t.Error("another pod reads what was relabelled for one")
	}
}
