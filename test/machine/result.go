// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// result is what came of a machine.
type result struct {
	machine machine
	absent  error // why the machine cannot be had
	dir     string
	facts   string
	took    time.Duration
	err     error // of the machine itself
	done    []outcome
}

// outcome is what came of a step.
type outcome struct {
	step            step
	left            bool // left out, the step says why
	ended           bool // it has an exit code
	code            int
	took            time.Duration
	passed, skipped int
	failed          []string // and why tests were left out
	reasons         []string
	log             string
}

// read fills in what the machine left in its folder.
func (r *result) read() {
	out := filepath.Join(r.dir, "orders", "out")
	r.facts = line(filepath.Join(out, "facts"))
	for _, s := range r.machine.steps {
		if s.restart && fileThere(filepath.Join(out, s.name+".code")) {
			continue
		}
		o := outcome{step: s, left: !s.has(filepath.Join(r.dir, "orders")), log: filepath.Join(out, s.name+".log")}
		if code, err := strconv.Atoi(line(filepath.Join(out, s.name+".code"))); err == nil {
			o.ended, o.code = true, code
		}
		if seconds, err := strconv.Atoi(line(filepath.Join(out, s.name+".time"))); err == nil {
			o.took = time.Duration(seconds) * time.Second
		}
		o.count()
		r.done = append(r.done, o)
	}
}

func (r result) failed() bool {
	if r.err != nil {
		return true
	}
	for _, o := range r.done {
		if !o.left && (!o.ended || o.code != 0) {
			return true
		}
	}
	return false
}

var (
	ofTest    = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+)`)
	ofCritest = regexp.MustCompile(`^(\d+) passed, (\d+) failed, (\d+) skipped`)
)

// count reads a step's log: what go test says of each test, or what critest says of all its specs.
func (o *outcome) count() {
	data, err := os.ReadFile(o.log)
	if err != nil {
		return
	}
	var last string
	for text := range strings.Lines(string(data)) {
		text = strings.TrimRight(text, "\n")
		switch test, sums := ofTest.FindStringSubmatch(text), ofCritest.FindStringSubmatch(text); {
		case sums != nil:
			o.passed, _ = strconv.Atoi(sums[1])
			o.skipped, _ = strconv.Atoi(sums[3])
		case strings.HasPrefix(text, "FAIL ") || strings.HasPrefix(text, "SKIP "):
			o.note(text[:4], text[5:], "")
		case test != nil:
			o.note(test[1], test[2], last)
		}
		last = text
	}
}

// note counts one test or spec. reason is the line before the verdict, which is where a test says why it was left out.
func (o *outcome) note(verdict, name, reason string) {
	switch verdict {
	case "PASS":
		o.passed++
	case "FAIL":
		o.failed = append(o.failed, name)
	case "SKIP":
		o.skipped++
		o.reasons = append(o.reasons, strings.TrimSpace(name+" "+reason))
	}
}

// String is the machine's line, and one below it for each test that failed or was left out.
func (r result) String() string {
	if r.absent != nil {
		return fmt.Sprintf("== machine %s: cannot be had: %v\n", r.machine.name, r.absent)
	}
	verdict := "passed"
	if r.failed() {
		verdict = "FAILED"
	}
	var parts []string
	for _, o := range r.done {
		parts = append(parts, o.String())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "== machine %s: %s in %s (%s): %s\n", r.machine.name, verdict, r.took, r.facts, strings.Join(parts, "; "))
	if r.err != nil {
		fmt.Fprintf(&b, "   %v; its console: %s\n", r.err, filepath.Join(r.dir, "console.log"))
	}
	for _, o := range r.done {
		for _, name := range o.failed {
			fmt.Fprintf(&b, "   failed: %s %s (%s)\n", o.step.name, name, o.log)
		}
		for _, reason := range o.reasons {
			fmt.Fprintf(&b, "   not run: %s %s\n", o.step.name, reason)
		}
	}
	return b.String()
}

func (o outcome) String() string {
	switch {
	case o.left:
		return fmt.Sprintf("%s not run: %s", o.step.name, o.step.without)
	case !o.ended:
		return o.step.name + " did not end"
	}
	return fmt.Sprintf("%s %d passed, %d failed, %d skipped in %s", o.step.name, o.passed, max(len(o.failed), min(o.code, 1)), o.skipped, o.took)
}

func line(path string) string {
	data, _ := os.ReadFile(path) // not there when the machine did not get that far
	return strings.TrimSpace(string(data))
}

func fileThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
