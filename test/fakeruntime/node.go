// SPDX-License-Identifier: Apache-2.0

// Package fakeruntime makes nodes for tests on which everything is real, the
// monitor's process, the store, overlay mounts, pinned namespaces, but the OCI
// runtime and the CNI plugin: these are shell scripts that run programs on the
// host and can be told to fail, hang, die half-way and answer rubbish.
//
// A node is what outlives daemons: directories, scripts, the monitor. A Daemon is
// the services of one process; it ends in order or crashes, and the next one
// finds what it left. The domain services are the test's to make, so that the
// tests of their packages may use this one.
package fakeruntime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
	"github.com/cri-shim/cri-shim/test/ocilayout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is the name of the one image of a node. Its only program is a shell.
const Image = "test.local/shell:1"

// Node is the machine of one test.
type Node struct {
	Dir    string // everything of the node is below
	Layout state.Layout

	t       testing.TB
	monitor *exec.Cmd
}

// New makes a node and starts its monitor, for the length of the test.
func New(t testing.TB) *Node {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri-f-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Dir: dir, t: t, Layout: state.Layout{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state")}}
	t.Cleanup(n.destroy)
	if Isolated() { // where flushing costs nothing
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755")
	}
	image := ocilayout.Image{
		Layers: []ocilayout.Layer{{{Path: "bin", Dir: true}, {Path: "bin/sh", Symlink: "/bin/sh"}}},
		Config: ocispec.ImageConfig{Cmd: []string{"/bin/sh", "-c", "exec sleep 1000"}},
	}
	_, write := ocilayout.Write(n.preload(), Image, image)
	if err := errors.Join(err, write, n.writeScripts()); err != nil {
		t.Fatal(err)
	}
	n.StartMonitor()
	return n
}

func (n *Node) preload() string { return filepath.Join(n.Dir, "preload") }

// Write makes a program, or any other file, in the node's directory.
func (n *Node) Write(name, text string) (path string) {
	n.t.Helper()
	if err := n.write(name, text); err != nil {
		n.t.Fatal(err)
	}
	return filepath.Join(n.Dir, name)
}

// Require skips the test where nothing can be mounted.
func Require(t testing.TB) {
	t.Helper()
	if !Isolated() {
		t.Skip("needs root: mounts root filesystems in namespaces of its own")
	}
}

// StartMonitor starts a monitor, at first or after a KillMonitor.
func (n *Node) StartMonitor() {
	n.t.Helper()
	if err := os.MkdirAll(n.Layout.State, 0o711); err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), monitorDir+"="+n.Dir)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.monitor = cmd
}

// KillMonitor ends the monitor; what it parents runs on.
func (n *Node) KillMonitor() {
	if n.monitor != nil {
		_ = n.monitor.Process.Kill()
		_ = n.monitor.Wait()
		n.monitor = nil
	}
}

// PauseMonitor stops the monitor until resume is called.
func (n *Node) PauseMonitor() (resume func()) {
	p := n.monitor.Process
	_ = p.Signal(syscall.SIGSTOP)
	return func() { _ = p.Signal(syscall.SIGCONT) }
}

// destroy ends what the node runs, unmounts, and removes cgroups and directory.
func (n *Node) destroy() {
	n.KillMonitor()
	made, _ := os.ReadFile(filepath.Join(n.Dir, "cgroups"))
	for line := range strings.Lines(string(made)) {
		path := strings.TrimSpace(line)
		errs := []error{cgroup.End(context.Background(), path)}
		if strings.HasPrefix(filepath.Dir(path), "/cri-") { // its pod's
			errs = append(errs, cgroup.End(context.Background(), filepath.Dir(path)))
		}
		if err := errors.Join(errs...); err != nil {
			n.t.Error(err)
		}
	}
	if Isolated() {
		if err := unix.Unmount(n.Dir, unix.MNT_DETACH); err != nil {
			n.t.Error(err)
		}
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		n.t.Error(err)
	}
}
