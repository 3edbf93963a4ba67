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

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// exceptions are specs of upstream's suite that cannot pass on this machine, and why. They are not run.
func exceptions(facts sys.Facts) map[string]*regexp.Regexp {
	all := map[string]*regexp.Regexp{
		"the shell of Debian 12's busybox passes no variable on whose name is no identifier": regexp.MustCompile(
			`(Secrets|ConfigMap) should be consumable (via the environment|as environment variable names)`),
		"our images are no Alpine Linux": regexp.MustCompile(`ImageVolume should succeed`),
	}
	if facts.OOMScoreAdjMin > -997 {
		all["no process of this machine may have an oom_score_adj below 0, as those of guaranteed pods have"] = regexp.MustCompile(`InPlace Resize.* guaranteed`)
	}
	if run("ip", "link", "add", "cri-dummy", "type", "dummy") != nil {
		all["the kernel of this machine has no network devices of type dummy"] = regexp.MustCompile(`PrivilegedPod should enable privileged commands`)
	} else {
		_ = run("ip", "link", "del", "cri-dummy")
	}
	return all
}

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
	facts, err := sys.ReadFacts()
	if err != nil {
		t.Fatal(err)
	}
	out := exceptions(facts)
	c := start(t)
	report := filepath.Join(c.logs, "e2e.json")
	focus := regexp.MustCompile(cmp.Or(os.Getenv("FOCUS"), `\[NodeConformance\]|\[Conformance\]`))
	ended := c.e2e(focus, out, report)
	specs, err := readReport(report)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, s := range specs {
		switch {
		case s.State == "passed":
			count["passed"]++
		case s.State == "pending", s.State == "skipped" && (s.Failure.Message != "" || !focus.MatchString(s.name())): // by its own choice, or ours
		case s.State == "skipped" && s.isOne(out):
			count["excepted"]++
		default: // a run that was cut short skips what is left
			count["failed"]++
			t.Errorf("%s: %s\n%s", s.State, s.name(), s.Failure.Message)
		}
	}
	fmt.Printf("conformance: %d specs passed, %d failed, %d excepted\n", count["passed"], count["failed"], count["excepted"])
	for because := range out {
		fmt.Printf("conformance: excepted: %s\n", because)
	}
	if ended != nil && count["failed"] == 0 || count["passed"] == 0 {
		t.Errorf("%d specs passed: %v", count["passed"], ended)
	}
}

// e2e runs the suite; its output goes to e2e.log in the logs.
func (c *cluster) e2e(focus *regexp.Regexp, out map[string]*regexp.Regexp, report string) error {
	log, err := os.Create(filepath.Join(c.logs, "e2e.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{
		"run", "--procs=10", "--no-color", "--timeout=3h", "--silence-skips", "--poll-progress-after=0",
		"--focus=" + focus.String(), "--json-report=" + filepath.Base(report), "--output-dir=" + filepath.Dir(report),
	}
	for _, e := range out {
		args = append(args, "--skip="+e.String())
	}
	args = append(args, filepath.Join(c.bin, "e2e.test"), "--", "--provider=skeleton", "--kubeconfig="+c.admin,
		"--kubectl-path="+filepath.Join(c.bin, "kubectl"), "--num-nodes=2", "--disable-log-dump")
	cmd := exec.Command(filepath.Join(c.bin, "ginkgo"), args...)
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
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// isOne tells whether it is one of those.
func (s spec) isOne(of map[string]*regexp.Regexp) bool {
	for _, e := range of {
		if e.MatchString(s.name()) {
			return true
		}
	}
	return false
}

// readReport is the specs of a report.
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
		for _, r := range s.SpecReports {
			if r.LeafNodeType == "It" || r.State != "passed" { // set-up and clean-up are of interest when they fail
				all = append(all, r)
			}
		}
	}
	return all, nil
}
