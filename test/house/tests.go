// SPDX-License-Identifier: Apache-2.0

package house

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"strings"
)

var testRules = []Rule{
	{"one driver", "what starts a daemon also ends it and looks for what it left: test/node does, and nobody else", checkDriver},
	{"named tests", "a document that names a test which is not there promises what nobody has shown", checkNamedTests},
	{"promises", "a promise that nothing shows is a wish", checkPromises},
}

// programs are ours to start.
var programs = []string{"cri-shim", "cri-monitor"}

// checkDriver looks at tests and their programs for a command that is made of the name of one of ours.
func checkDriver(t *Tree) []Finding {
	ours := func(f *File) bool { return f.under("test") && !f.under("test/node", "test/house") }
	return t.each(ours, func(f *File, n ast.Node) []Finding {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return nil
		}
		if pkg, name, ok := selector(call.Fun); !ok || !strings.HasSuffix(pkg, "exec") || !strings.HasPrefix(name, "Command") {
			return nil
		}
		var found []Finding
		ast.Inspect(call, func(n ast.Node) bool {
			for _, name := range programs {
				if n != nil && path.Base(text(n)) == name {
					found = append(found, t.find(f, n, "%s is started here", name))
				}
			}
			return true
		})
		return found
	})
}

var (
	testName = regexp.MustCompile(`(?:^|[^/\w])(Test[A-Z]\w*)`)
	testFile = regexp.MustCompile(`\b[a-z][a-z0-9_]*_test\.go\b`)
	target   = regexp.MustCompile("`make ([a-z0-9-]+)[^`]*`")
	// A package and the tests that are named after it, up to the next one, or the end of what it is about.
	inPackage = regexp.MustCompile("`((?:pkg|cmd|test)/[a-z0-9/-]+)`([^`;|\\]\\[(]*)")
)

// tests are the names of all tests and benchmarks, with the folders each is in.
func (t *Tree) tests() map[string][]string {
	names := map[string][]string{}
	for _, f := range t.Go {
		for _, decl := range f.AST.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && f.isTest() && d.Recv == nil && strings.HasPrefix(d.Name.Name, "Test") {
				names[d.Name.Name] = append(names[d.Name.Name], f.dir()+"/")
			}
		}
	}
	return names
}

// checkNamedTests wants each test that a document names to be there, and below the package that it is said to be in.
func checkNamedTests(t *Tree) []Finding {
	tests := t.tests()
	var found []Finding
	for _, o := range t.Other {
		if !strings.HasSuffix(o.Path, ".md") {
			continue
		}
		for _, at := range testName.FindAllStringSubmatchIndex(o.Src, -1) {
			if name := o.Src[at[2]:at[3]]; len(tests[name]) == 0 {
				found = append(found, o.find(at[2], "no test is called "+name))
			}
		}
		for _, at := range inPackage.FindAllStringSubmatchIndex(o.Src, -1) {
			dir := o.Src[at[2]:at[3]]
			for _, m := range testName.FindAllStringSubmatch(o.Src[at[4]:at[5]], -1) {
				if dirs := tests[m[1]]; len(dirs) > 0 && !anyBelow(dirs, dir) {
					found = append(found, o.find(at[0], fmt.Sprintf("%s is not in %s, but in %s", m[1], dir, strings.Join(dirs, " "))))
				}
			}
		}
	}
	return found
}

// find is a finding at an offset of the text.
func (o Text) find(at int, what string) Finding {
	return Finding{o.Path, 1 + strings.Count(o.Src[:at], "\n"), what}
}

func anyBelow(dirs []string, top string) bool {
	for _, d := range dirs {
		if strings.HasPrefix(d, top+"/") {
			return true
		}
	}
	return false
}

// checkPromises looks at tables whose last column says what shows the first: a test, a file of tests or a target of make.
func checkPromises(t *Tree) []Finding {
	var found []Finding
	for _, o := range t.Other {
		if !strings.HasSuffix(o.Path, ".md") {
			continue
		}
		inTable := false
		for i, line := range strings.Split(o.Src, "\n") {
			cells := strings.Split(strings.Trim(line, "| "), "|")
			last := strings.TrimSpace(cells[len(cells)-1])
			switch {
			case !strings.HasPrefix(line, "|"):
				inTable = false
			case last == "shown by":
				inTable = true
			case !inTable || strings.Trim(line, "|- ") == "":
			case !t.shows(last):
				found = append(found, Finding{o.Path, i + 1, "promise without a test: " + last})
			}
		}
	}
	return found
}

// shows tells whether text names something that can be run. That a test it names is there is another rule.
func (t *Tree) shows(cell string) bool {
	if testName.MatchString(cell) {
		return true
	}
	for _, name := range testFile.FindAllString(cell, -1) {
		for _, f := range t.Go {
			if path.Base(f.Path) == name {
				return true
			}
		}
	}
	for _, m := range target.FindAllStringSubmatch(cell, -1) {
		for _, o := range t.Other {
			if o.Path == "Makefile" && strings.Contains("\n"+o.Src, "\n"+m[1]+":") {
				return true
			}
		}
	}
	return false
}
