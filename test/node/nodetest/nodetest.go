// SPDX-License-Identifier: Apache-2.0

// Package nodetest is package node for tests: a daemon of ours for the length of a test, with directories, a network and
// a configuration of its own, pods and containers that are gone when the test is, and at the end a look at the machine
// for what is left. Tests share the machine: what a node left is told from what others have by names that only it has.
// Main looks once more after all tests, for what carries no name.
package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node"
)

// Snapshot is what the machine holds of a node.
type Snapshot = node.Snapshot

// Node is a daemon of ours and a client of it.
type Node struct {
	*node.Node
	LogDir string // a pod log directory

	sliced bool // pods were given slices
}

// Main runs a package's tests in mount and network namespaces of their own, and fails when they passed and left
// something there. Its result is the exit code. extra is more to set up in the namespaces.
func Main(m *testing.M, extra ...func() error) int {
	if os.Geteuid() != 0 {
		return m.Run() // which says of each test that it needs root
	}
	again, code, err := node.Isolate()
	if !again && err == nil {
		code, err = within(m, extra)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func within(m *testing.M, extra []func() error) (code int, err error) {
	for _, do := range extra {
		if err := do(); err != nil {
			return 1, err
		}
	}
	dir, err := os.MkdirTemp("", "cri-all-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	all, err := node.New(node.Options{Kind: node.CRIShim, Dir: dir, Alone: true, Network: node.Network{Default: true}})
	if err != nil {
		return 1, err
	}
	if code := m.Run(); code != 0 {
		return code, all.Close() // a test that failed may have left anything
	}
	return 0, errors.Join(all.Leaks(), all.Close())
}

// Root is the module's root directory.
func Root(t testing.TB) string {
	t.Helper()
	root, err := node.Root()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// Bin is the path of a built program.
func Bin(t testing.TB, name string) string {
	t.Helper()
	dir, err := node.Programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// Shim runs our program as far as it goes by itself, with what it says as the answer: commands, and starts that are refused.
func Shim(t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), node.Patience(10*time.Second))
	defer cancel()
	out, err := exec.CommandContext(ctx, Bin(t, "cri-shim"), args...).CombinedOutput()
	return string(out), err
}

// Require skips the test, saying why, where the machine cannot run it.
func Require(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: starts real containers")
	}
	for _, name := range []string{"cri-shim", "cri-monitor", "runc", "cni/bridge", "testbox"} {
		if _, err := os.Stat(Bin(t, name)); err != nil {
			t.Fatalf("%s is missing: run make build bin/testbox", Bin(t, name))
		}
	}
}

// Start runs a daemon for the length of the test. extra is configuration besides that of every daemon.
func Start(t testing.TB, extra ...string) *Node {
	t.Helper()
	n := New(t, extra...)
	n.StartFor(t)
	if strings.Contains(strings.Join(extra, ""), "preload_dir") {
		n.AwaitImage(t, TestImage)
	}
	return n
}

// New prepares directories and configuration and starts nothing. $CRI_TEST_CONFIG, if set, is configuration of every
// daemon: the cgroup driver, say; $CRI_TEST_HANDLER is the OCI runtime of pods that ask for none.
func New(t testing.TB, extra ...string) *Node {
	t.Helper()
	Require(t)
	dir, err := os.MkdirTemp("", "cri-it-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // users of user namespaces go through it
		t.Fatal(err)
	}
	name := strings.TrimPrefix(filepath.Base(dir), "cri-it-")
	// Of the subnets that a daemon picks by itself there are five, and tests run side by side.
	subnet := fmt.Sprintf("10.%d.%d.0/24", 130+rand.IntN(60), rand.IntN(256))
	o := node.Options{
		Kind: node.CRIShim, Dir: dir, Bin: Bin(t, ""),
		Network: node.Network{Default: true, Bridge: "cri-" + name[:min(len(name), 6)], Subnet: subnet},
	}
	o.Text = configuration(o, append(extra, os.Getenv("CRI_TEST_CONFIG")))
	if name := os.Getenv("CRI_TEST_HANDLER"); name != "" && !strings.Contains(o.Text, "[runtime]") {
		o.Text = node.DefaultHandler(name) + o.Text
	}
	inner, err := node.New(o)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Node: inner, LogDir: filepath.Join(dir, "logs")}
	if err := os.Mkdir(n.LogDir, 0o755); err != nil {
		t.Fatal(err)
	}
	return n
}

func configuration(o node.Options, extra []string) string {
	at := func(name string) string { return filepath.Join(o.Dir, name) }
	return fmt.Sprintf(`listen = %q
root = %q
state = %q
log_level = "debug"
%s
[cni]
conf_dir = %q
default_network = true
bridge = %q
subnets = [%q]

[registry]
config_path = %q

[nri]
enable = false
socket = %q
`, at("cri.sock"), at("root"), at("state"), strings.Join(extra, "\n"), at("cni"), o.Network.Bridge, o.Network.Subnet, at("certs.d"), at("nri.sock"))
}

// ports are given to servers of daemons. They are below those that the kernel gives out.
var ports atomic.Int32

// Port is a TCP port for the test's own use.
func Port() int { return 20000 + int(ports.Add(1)) }

// Watch lets the daemon serve metrics, by which snapshots count its goroutines. Call it before StartFor.
func (n *Node) Watch(t testing.TB) {
	t.Helper()
	n.Metrics = fmt.Sprintf("127.0.0.1:%d", Port())
	n.Edit(t, "[cni]\n", fmt.Sprintf("[metrics]\naddress = %q\n[cni]\n", n.Metrics))
}

// Edit replaces part of the daemon's configuration.
func (n *Node) Edit(t testing.TB, old, text string) {
	t.Helper()
	data, err := os.ReadFile(n.Config)
	if err == nil && !strings.Contains(string(data), old) {
		err = fmt.Errorf("edit %s: it has no %q", n.Config, old)
	}
	if err == nil {
		err = os.WriteFile(n.Config, []byte(strings.Replace(string(data), old, text, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// StartFor is Start for a daemon whose directories a test has prepared.
func (n *Node) StartFor(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		err := n.destroy()
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("daemon log:\n%s", n.Log())
		}
		if err != nil {
			return // there is something to look at
		}
		if err := os.RemoveAll(n.Dir); err != nil {
			t.Error(err)
		}
	})
	if err := n.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, n.Log())
	}
}

// destroy stops and wipes the daemon and fails with what is left on the machine.
func (n *Node) destroy() error {
	var errs []error
	if n.Running() {
		errs = append(errs, n.Stop())
	}
	return errors.Join(append(errs, n.Close(), n.Wipe(context.Background()), n.Leaks(), n.removeSlices())...)
}

// AwaitRecovered returns when the daemon that was started last has undone what the one before it left half done.
func (n *Node) AwaitRecovered(t testing.TB) {
	t.Helper()
	Eventually(t, 20*time.Second, "recovery is complete", func() bool {
		log := n.Log()
		return strings.LastIndex(log, "recovery is complete") > strings.LastIndex(log, "records are recovered")
	})
}

// AwaitImage waits until a preloaded image is there.
func (n *Node) AwaitImage(t testing.TB, name string) {
	t.Helper()
	Eventually(t, 20*time.Second, "image "+name+" is preloaded", func() bool {
		r, err := n.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
		return err == nil && r.Image != nil
	})
}

// settled is how long what is cleaned up in the background may take.
const settled = 8 * time.Second

// NothingLeft checks that pods and containers, which were all removed, are gone without a trace.
func (n *Node) NothingLeft(t testing.TB) {
	t.Helper()
	if err := n.Settled(); err != nil {
		t.Error(err)
	}
}

// Settled is what is left of pods and containers, which were all removed, once what is cleaned up in the background is.
func (n *Node) Settled() error {
	err := n.Remains()
	for end := time.Now().Add(node.Patience(settled)); node.Late(err) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		err = n.Remains()
	}
	return err
}

// Look takes a snapshot.
func (n *Node) Look(t testing.TB) node.Snapshot {
	t.Helper()
	s, err := n.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// AwaitSame waits until the machine is as in the snapshot again, for what is cleaned up in the background, and fails with
// the difference if it does not become so.
func (n *Node) AwaitSame(t testing.TB, want node.Snapshot, when string) {
	t.Helper()
	var diff []string
	for end := time.Now().Add(node.Patience(settled)); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if diff = n.Look(t).Diff(want); len(diff) == 0 {
			return
		}
	}
	t.Errorf("%s:\n  %s", when, strings.Join(diff, "\n  "))
}
