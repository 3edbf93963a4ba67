// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// exceptions are specs of upstream's suite that fail here, and why that is the machine's.
var exceptions = []struct{ spec, cause string }{}

// TestConformance runs Kubernetes' own e2e suite on the two nodes: the specs of FOCUS, a regular expression, which are
// those of a node's conformance and a cluster's unless it is given.
func TestConformance(t *testing.T) {
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"e2e.test", "ginkgo"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Skipf("no %s: make conformance builds it", name)
		}
	}
	c := start(t)
	report := filepath.Join(c.logs, "e2e.json")
	if err := c.e2e(report); err != nil {
		t.Log(err) // what failed, the report has
	}
	specs, err := readReport(report)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, s := range specs {
		switch because := s.exception(); {
		case s.State == "passed", s.State == "skipped":
			count[s.State]++
		case because != "":
			count["excepted"]++
			t.Logf("excepted: %s: %s", s.name(), because)
		default:
			count["failed"]++
			t.Errorf("%s: %s\n%s", s.State, s.name(), s.Failure.Message)
		}
	}
	fmt.Printf("conformance: %d specs passed, %d failed, %d excepted\n", count["passed"], count["failed"], count["excepted"])
	if count["passed"] == 0 {
		t.Error("no spec passed")
	}
}

// e2e runs the suite; its output goes to e2e.log in the logs.
func (c *cluster) e2e(report string) error {
	log, err := os.Create(filepath.Join(c.logs, "e2e.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.bin, "ginkgo"), "run", "--procs=8", "--no-color", "--timeout=3h", "--silence-skips", "--poll-progress-after=0",
		"--focus="+cmp.Or(os.Getenv("FOCUS"), `\[NodeConformance\]|\[Conformance\]`), "--json-report="+filepath.Base(report), "--output-dir="+filepath.Dir(report),
		filepath.Join(c.bin, "e2e.test"), "--", "--provider=skeleton", "--kubeconfig="+c.admin, "--kubectl-path="+filepath.Join(c.bin, "kubectl"),
		"--num-nodes=2", "--disable-log-dump", "--allowed-not-ready-nodes=0")
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run e2e.test: %w; its output is %s", err, log.Name())
	}
	return nil
}

// spec is one spec in a report of ginkgo's.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

func (s spec) exception() string {
	for _, e := range exceptions {
		if regexp.MustCompile(e.spec).MatchString(s.name()) {
			return e.cause
		}
	}
	return ""
}

// readReport is the specs of a report, without those that the suite's choice left out.
func readReport(path string) ([]spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var all []spec
	for _, s := range suites {
		all = append(all, s.SpecReports...)
	}
	return slices.DeleteFunc(all, func(s spec) bool {
		return s.State == "pending" || s.State == "skipped" && s.Failure.Message == "" || s.LeafNodeType != "It" && s.State == "passed"
	}), nil
}
