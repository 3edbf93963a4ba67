// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// fault is a line of the plan that a daemon built with the tag faults follows; cmd/cri-shim/faults.go reads it.
type fault struct {
	Operation string `json:"operation"`
	Step      string `json:"step"`
	Moment    string `json:"moment"` // before, within or after the step
	Action    string `json:"action"` // error or kill
	Skip      int    `json:"skip"`
}

func (f fault) String() string {
	return strings.ReplaceAll(fmt.Sprintf("%s %s %s %s", f.Action, f.Operation, f.Moment, f.Step), "/", "-")
}

// faulty is a daemon that fails on demand.
type faulty struct {
	*nodetest.Node
	dir string // of plan and record
}

// startFaulty starts a daemon that follows a plan of faults.
func startFaulty(t testing.TB) *faulty {
	t.Helper()
	f := &faulty{Node: nodetest.New(t, nodetest.Preload(t)), dir: t.TempDir()}
	f.Program, f.Env = nodetest.Bin(t, "faults/cri-shim"), []string{"CRI_SHIM_FAULTS=" + f.dir}
	if _, err := os.Stat(f.Program); err != nil {
		t.Fatalf("%s is missing: run make bin/faults/cri-shim", f.Program)
	}
	f.StartFor(t)
	f.AwaitImage(t, nodetest.TestImage)
	return f
}

// plan replaces the plan of faults.
func (f *faulty) plan(t testing.TB, p ...fault) {
	t.Helper()
	data, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(filepath.Join(f.dir, "plan"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// struck tells whether every planned fault has happened.
func (f *faulty) struck() bool {
	var left []fault
	data, _ := os.ReadFile(filepath.Join(f.dir, "plan"))
	return json.Unmarshal(data, &left) == nil && len(left) == 0
}

// record forgets which steps were passed.
func (f *faulty) record() { os.Remove(filepath.Join(f.dir, "passed")) }

var objectName = regexp.MustCompile(` ?([0-9a-f]{64}|(pod|container)/).*`)

// passed lists the places operations passed since record, each once, with the names of objects taken out of the
// operation's.
func (f *faulty) passed(t testing.TB) []fault {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, "passed"))
	if err != nil {
		t.Fatal(err)
	}
	var out []fault
	seen := map[fault]bool{}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		parts := strings.Split(s.Text(), "\t")
		p := fault{Operation: objectName.ReplaceAllString(parts[0], ""), Step: parts[1], Moment: parts[2]}
		if parts[0] != "struck" && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}
