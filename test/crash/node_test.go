// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package crash lets the built daemon fail and die: at each step of each
// operation, at random under load, with damaged state, and beside neighbours
// that hang. After each the ledger of what was acknowledged is held against
// what the kernel and the API say.
package crash

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plannedFault is a line of the plan that a daemon built with the tag faults
// follows; cmd/cri-shim/faults.go reads it.
type plannedFault struct {
	Operation string `json:"operation"`
	Step      string `json:"step"`
	Moment    string `json:"moment"`
	Action    string `json:"action"`
	Skip      int    `json:"skip"`
}

func (p plannedFault) String() string {
	return strings.ReplaceAll(fmt.Sprintf("%s %s %s %s", p.Action, p.Operation, p.Moment, p.Step), "/", "-")
}

// node is a daemon that fails on demand.
type node struct {
	*nodetest.Node
	t      testing.TB
	faults string // directory of plan and record
	serial atomic.Int64
}

// faultyNode starts a daemon that follows a plan of faults.
func faultyNode(t testing.TB, extra ...string) *node {
	t.Helper()
	nodetest.Require(t)
	if _, err := os.Stat(nodetest.Bin(t, "faults/cri-shim")); err != nil {
		t.Fatal("bin/faults/cri-shim is missing: run make bin/faults/cri-shim")
	}
	d := nodetest.New(t, append(extra, nodetest.Preload(t))...)
	n := &node{Node: d, t: t, faults: t.TempDir()}
	d.Program, d.Env = nodetest.Bin(t, "faults/cri-shim"), []string{"CRI_SHIM_FAULTS=" + n.faults}
	d.StartFor(t)
	n.AwaitImage(t, nodetest.TestImage)
	return n
}

// plan replaces the plan of faults.
func (n *node) plan(p ...plannedFault) {
	n.t.Helper()
	data, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(filepath.Join(n.faults, "plan"), data, 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// struck tells whether every planned fault has happened.
func (n *node) struck() bool {
	var left []plannedFault
	data, _ := os.ReadFile(filepath.Join(n.faults, "plan"))
	return json.Unmarshal(data, &left) == nil && len(left) == 0
}

// record forgets which steps were passed.
func (n *node) record() {
	os.Remove(filepath.Join(n.faults, "passed"))
}

var objectName = regexp.MustCompile(` ?([0-9a-f]{64}|(pod|container)/).*`)

// passed lists the places operations passed since record, each once, with the
// names of objects taken out of the operation's.
func (n *node) passed() []plannedFault {
	data, err := os.ReadFile(filepath.Join(n.faults, "passed"))
	if err != nil {
		n.t.Fatal(err)
	}
	var out []plannedFault
	seen := map[plannedFault]bool{}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		f := strings.Split(s.Text(), "\t")
		p := plannedFault{Operation: objectName.ReplaceAllString(f[0], ""), Step: f[1], Moment: f[2]}
		if f[0] != "struck" && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// bystander is a pod that has nothing to do with what is made to fail, and
// must not notice any of it.
type bystander struct {
	config *cri.PodSandboxConfig
	pod    string
	id     string
	lines  int
	pid    string
}

func (n *node) bystander() *bystander {
	n.t.Helper()
	b := &bystander{config: n.PodConfig("bystander")}
	b.pod = n.Pod(n.t, b.config)
	b.id = n.Run(n.t, b.pod, nodetest.ContainerConfig("bystander", "lines", "0", "5"), b.config)
	n.AwaitLog(n.t, "bystander", "line 3")
	b.pid = n.pidOf(b.id)
	return b
}

func (n *node) pidOf(id string) string {
	n.t.Helper()
	r, err := n.Runtime.ContainerStatus(n.t.Context(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		n.t.Fatalf("no pid in %v: %v", r.Info, err)
	}
	return fmt.Sprint(info.Pid)
}

// check fails when the bystander noticed anything.
func (b *bystander) check(t testing.TB, n *node) {
	t.Helper()
	s, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: b.pod})
	if err != nil || s.Status.State != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("bystander's pod: %v, %v", s, err)
	}
	if c := n.Status(t, b.id); c.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("bystander: %v", c)
	}
	if pid := n.pidOf(b.id); pid != b.pid {
		t.Errorf("bystander's pid was %s, is %s", b.pid, pid)
	}
	before := b.lines
	nodetest.Eventually(t, 10*time.Second, "the bystander's log goes on", func() bool {
		var err error
		if b.lines, err = countLines(n.LogOf(t, "bystander")); err != nil {
			t.Fatal(err)
		}
		return b.lines > before
	})
}

// countLines checks that the log of testbox lines has each line once, in
// order, and returns how many.
func countLines(log string) (int, error) {
	lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
	for i, line := range lines {
		if line != fmt.Sprintf("line %d", i+1) {
			return i, fmt.Errorf("line %d of the log is %q", i+1, line)
		}
	}
	return len(lines), nil
}

// freePort is a TCP port nobody has now.
func freePort(t testing.TB) int32 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

// within bounds one call.
func within(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
