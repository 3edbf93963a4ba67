// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// spec is what the report tells of one spec.
type spec struct {
	Containers []string `json:"ContainerHierarchyTexts"`
	Leaf       string   `json:"LeafNodeText"`
	Type       string   `json:"LeafNodeType"`
	State      string
	Failure    struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
	RunTime time.Duration
}

func (s spec) name() string { return strings.Join(append(s.Containers, s.Leaf), " ") }

// excluded is a spec that --focus or --skip, or the suite's own filter, left out: it says nothing about the runtime.
func (s spec) excluded() bool { return s.State == "skipped" && s.Failure.Message == "" }

// run runs the suite and prints what came of it.
func (o *options) run(ctx context.Context, endpoint, nri string) (int, error) {
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return 1, err
	}
	report := filepath.Join(o.logs, "report.json")
	out, err := os.Create(filepath.Join(o.logs, "critest.log"))
	if err != nil {
		return 1, err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, o.critest, o.args(endpoint, nri, report)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) } // it cleans up and reports
	cmd.WaitDelay = time.Minute
	fmt.Printf("critest: %s %s\n", o.critest, strings.Join(cmd.Args[1:], " "))
	begin := time.Now()
	runErr := cmd.Run()
	specs, err := readReport(report)
	if err != nil {
		return 1, errors.Join(err, runErr)
	}
	code := summarize(specs, time.Since(begin))
	fmt.Println("critest: logs in", o.logs)
	var exit *exec.ExitError
	if runErr != nil && !errors.As(runErr, &exit) {
		return 1, runErr
	}
	if runErr != nil && code == 0 {
		return 1, fmt.Errorf("no spec failed, yet the suite did: %w", runErr)
	}
	return code, nil
}

func (o *options) args(endpoint, nri, report string) []string {
	args := []string{
		"--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--config", "/dev/null",
		"--ginkgo.json-report", report, "--ginkgo.no-color",
	}
	for flag, value := range map[string]string{"focus": o.focus, "skip": o.skip, "seed": o.seed} {
		if value != "" {
			args = append(args, "--ginkgo."+flag, value)
		}
	}
	if o.nri && nri != "" {
		args = append(args, "--nri-socket", nri)
	}
	if o.randomize {
		args = append(args, "--ginkgo.randomize-all")
	}
	if o.websocket {
		args = append(args, "--websocket-exec", "--websocket-attach", "--websocket-portforward")
	}
	return args
}

func readReport(name string) ([]spec, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	var suites []struct {
		SpecReports                []spec
		SpecialSuiteFailureReasons []string
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("read report %s: %w", name, err)
	}
	var specs []spec
	for _, s := range suites {
		specs = append(specs, s.SpecReports...)
	}
	return specs, nil
}

// summarize prints the failures and the skips and the closing line, and returns the exit code.
func summarize(specs []spec, took time.Duration) int {
	var passed int
	var failed, skipped []spec
	for _, s := range specs {
		switch {
		case s.Type != "It" && s.State != "failed" && s.State != "panicked", s.excluded(), s.State == "pending":
		case s.State == "passed":
			passed++
		case s.State == "skipped":
			skipped = append(skipped, s)
		default:
			failed = append(failed, s)
		}
	}
	byName := func(a, b spec) int { return strings.Compare(a.name(), b.name()) }
	slices.SortFunc(skipped, byName)
	slices.SortFunc(failed, byName)
	for _, s := range skipped {
		fmt.Printf("SKIP %s\n     %s\n", s.name(), oneLine(s.Failure.Message))
	}
	for _, s := range failed {
		at := filepath.Base(s.Failure.Location.FileName)
		fmt.Printf("FAIL %s\n     %s (%s:%d, after %s)\n", s.name(), oneLine(s.Failure.Message), at, s.Failure.Location.LineNumber, s.RunTime.Round(time.Millisecond))
	}
	fmt.Printf("critest: %d specs in %s\n", passed+len(failed)+len(skipped), took.Round(time.Second))
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, len(failed), len(skipped))
	if len(failed) > 0 || passed == 0 {
		return 1
	}
	return 0
}

func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 600 {
		text = text[:600] + "…"
	}
	return text
}
