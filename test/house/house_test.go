// SPDX-License-Identifier: Apache-2.0

package house_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-shim/cri-shim/test/house"
)

// TestHouse holds this tree to every rule.
func TestHouse(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := house.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range house.Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			found := rule.Check(tree)
			for _, f := range found {
				t.Error(f)
			}
			if len(found) > 0 {
				t.Logf("the rule: %s", rule.Why)
			}
		})
	}
}

const spdx = "// SPDX-License-Identifier: Apache-2.0\n\n"

// violation is the smallest tree that breaks exactly one rule.
type violation struct{ rule, path, src string }

func violations(root string) []violation {
	long := strings.Repeat("\t_ = 0\n", 80)
	return []violation{
		{"layers", "pkg/state/x.go", "package state\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/server\"\n"},
		{"layers", "pkg/image/x.go", "package image\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/network\"\n"},
		{"layers", "cmd/cri-monitor/x.go", "package main\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/state\"\n"},
		{"layers", "pkg/monitor/wire/x.go", "package wire\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/monitor/poll\"\n"},
		{"layers", "pkg/monitor/newcomer/x.go", "package newcomer\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/monitor/poll\"\n"},
		{"links", "cmd/cri-shim/x.go", "package main\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/monitor/parent\"\n"},
		{"links", "cmd/cri-monitor/x.go", "package main\n\nimport _ \"golang.org/x/sync/errgroup\"\n"},
		{"layers", "pkg/newcomer/x.go", "package newcomer\n"},
		{"layers", "pkg/sys/newcomer/x.go", "package newcomer\n"},
		{"layers", "pkg/sys/x.go", "package sys\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/sys/tree\"\n"},
		{"layers", "pkg/sys/tree/x.go", "package tree\n\nimport _ \"github.com/cri-shim/cri-shim/pkg/sys/cgroup\"\n"},
		{"walls", "pkg/sandbox/x.go", "package sandbox\n\nimport _ \"os/exec\"\n"},
		{"walls", "pkg/sandbox/x.go", "package sandbox\n\nimport _ \"google.golang.org/grpc/codes\"\n"},
		{"request types", "pkg/sandbox/x.go", "package sandbox\n\nvar x *cri.StatusRequest\n"},
		{"replace", "go.mod", "module x\n\nreplace a => b v1\n"},
		{"function length", "pkg/sys/x.go", "package sys\n\nfunc x() {\n" + long + "}\n"},
		{"file length", "pkg/sys/x.go", "package sys\n" + strings.Repeat("\n", 400)},
		{"package length", "pkg/sys/x.go", "package sys\n" + strings.Repeat("\n", 390)},
		{"parameters", "pkg/sys/x.go", "package sys\n\nfunc x(ctx context.Context, a, b, c, d, e, f int) {}\n"},
		{"interface width", "pkg/sys/x.go", "package sys\n\ntype x interface{ a(); b(); c(); d(); e(); f(); g(); h() }\n"},
		{"error texts", "pkg/sys/x.go", "package sys\n\nvar x = fmt.Errorf(\"failed to do it\")\n"},
		{"step names", "pkg/sys/x.go", "package sys\n\nvar x, y = state.Step{Name: \"build it\", Do: nil}, fmt.Errorf(\"build it: %w\", z)\n"},
		{"error matching", "pkg/sys/x.go", "package sys\n\nvar x = strings.Contains(err.Error(), \"no such\")\n"},
		{"package names", "test/x/x.go", "// Package util is.\npackage util\n"},
		{"prints", "pkg/sys/x.go", "package sys\n\nfunc x() { fmt.Println() }\n"},
		{"exits", "pkg/sys/x.go", "package sys\n\nfunc x() { os.Exit(1) }\n"},
		{"exits", "pkg/sys/x.go", "package sys\n\nfunc x() { panic(1) }\n"},
		{"open ends", "pkg/sys/x.go", "package sys\n\n// TODO: later\nfunc x() {}\n"},
		{"skips", "pkg/sys/x_test.go", "package sys\n\nfunc x(t *testing.T) { t.Skip() }\n"},
		{"skips", "pkg/sys/x_test.go", "package sys\n\nfunc x(t *testing.T) { t.SkipNow() }\n"},
		{"machine paths", "README.md", "see " + root + "/README.md\n"},
		{"goroutines", "pkg/sys/x.go", "package sys\n\nfunc x() { go x() }\n"},
		{"init functions", "pkg/sys/x.go", "package sys\n\nfunc init() {}\n"},
		{"contexts", "pkg/sys/x.go", "package sys\n\nvar x = context.Background()\n"},
		{"sleeps", "pkg/sys/x.go", "package sys\n\nfunc x() { time.Sleep(1) }\n"},
		{"package docs", "test/x/x.go", "package x\n"},
		{"exported docs", "pkg/sys/x.go", "package sys\n\nfunc X() {}\n"},
		{"exported docs", "pkg/sys/x.go", "package sys\n\ntype X int\n"},
		{"switches", "pkg/sys/x.go", "package sys\n\n// Options of x.\ntype Options struct{ A, B int }\n\nvar x = Options{A: 1}\n"},
		{"switches", "pkg/sys/x.go", "package sys\n\n// XInput of x.\ntype XInput struct{ A int }\n\nfunc (o *XInput) fill() { o.A = 1 }\n"},
		{"switches", "pkg/sys/x.go", "package sys\n\n// Options of x.\ntype Options struct{ A int }\n\nfunc x(o Options) { o.A = 1 }\n"},
		{"keys", "cmd/cri-shim/x.go", "package main\n\ntype Config struct{ A, B int }\n\nfunc x(c Config) int { return c.A }\n"},
		{"package docs", "test/x/x_test.go", "package x\n"},
		{"one driver", "test/x/x.go", "package x\n\nvar x = exec.Command(\"/bin/cri-shim\", \"config\")\n"},
		{"one driver", "test/x/x.go", "package x\n\nvar x = exec.CommandContext(ctx, bin(\"cri-monitor\"))\n"},
		{"named tests", "README.md", "[`pkg/sys` TestNowhere]\n"},
		{"promises", "SPECIFICATION.md", "| promise | shown by |\n|---|---|\n| all is well | a wish |\n"},
		{"make targets", "README.md", "Run `make build nothing`.\n"},
		{"fuzz seeds", "pkg/sys/x_test.go", "package sys\n\nfunc FuzzX(f *testing.F) { f.Fuzz(nil) }\n"},
		{"licence", "test/x.sh", "#!/bin/sh\necho\n"},
	}
}

// TestEveryRuleCanFail breaks each rule in a tree that breaks no other.
func TestEveryRuleCanFail(t *testing.T) {
	covered := map[string]bool{}
	for _, v := range violations("\x00") {
		covered[v.rule] = true
		t.Run(v.rule, func(t *testing.T) {
			root := t.TempDir()
			v.src = strings.ReplaceAll(v.src, "\x00", root)
			for _, rule := range broken(t, root, v) {
				if rule != v.rule {
					t.Errorf("rule %q fails as well", rule)
				} else {
					v.rule = ""
				}
			}
			if v.rule != "" {
				t.Errorf("rule %q does not notice %q", v.rule, v.src)
			}
		})
	}
	for _, rule := range house.Rules() {
		if !covered[rule.Name] {
			t.Errorf("no violation shows that rule %q can fail", rule.Name)
		}
	}
}

// broken writes the violation beside a clean file and returns the names of the rules that find something.
func broken(t *testing.T, root string, v violation) []string {
	t.Helper()
	if strings.HasSuffix(v.path, ".go") {
		v.src = spdx + v.src
		if dir := filepath.Dir(v.path); v.rule != "package docs" && v.rule != "package names" {
			name, _, _ := strings.Cut(strings.TrimPrefix(v.src, spdx+"package "), "\n")
			write(t, root, dir+"/doc.go", spdx+"// Package "+name+" is documented.\npackage "+name+"\n")
		}
	}
	write(t, root, v.path, v.src)
	for i := range 5 {
		if v.rule == "package length" { // of files that are short enough
			write(t, root, strings.Replace(v.path, ".go", fmt.Sprint(i, ".go"), 1), v.src)
		}
	}
	tree, err := house.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	var list []string
	for _, rule := range house.Rules() {
		for range rule.Check(tree) {
			if !names[rule.Name] {
				list = append(list, rule.Name)
			}
			names[rule.Name] = true
		}
	}
	return list
}

func write(t *testing.T, root, name, src string) {
	t.Helper()
	full := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
}
