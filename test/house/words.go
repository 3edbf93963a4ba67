// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
	"os"
	"regexp"
	"slices"
	"strings"
)

var wordRules = []Rule{
	{"error texts", "an error says what was being done, `verb object: cause`; that it did not work is known by then", checkErrorTexts},
	{"step names", "a step's name is put before its error, and an error that says the same again says it twice", checkStepNames},
	{"error matching", "an error's text is for people; programs ask errors.Is for its class", checkErrorMatching},
	{"package names", "a package is named after what it provides; a drawer for leftovers only fills up", checkPackageNames},
	{"prints", "a daemon speaks through its logger, which knows the level and the object", checkPrints},
	{"exits", "only main ends the process: whoever else does skips every teardown above it", checkExits},
	{"open ends", "a TODO that nobody can look up is never done", checkTodos},
	{"skips", "a skipped test that does not say why is a deleted test", checkSkips},
	{"machine paths", "what names the machine it was written on works only there", checkMachinePaths},
}

var idleWords = []string{"failed to", "unable to", "could not ", "couldn't ", "error while", "error when"}

func checkErrorTexts(t *Tree) []Finding {
	return t.each(anyCode, func(f *File, n ast.Node) []Finding {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return nil
		}
		pkg, name, ok := selector(call.Fun)
		if !ok || pkg+"."+name != "fmt.Errorf" && pkg+"."+name != "errors.New" {
			return nil
		}
		for _, w := range idleWords {
			if strings.Contains(strings.ToLower(text(call.Args[0])), w) {
				return []Finding{t.find(f, n, "error text with %q", w)}
			}
		}
		return nil
	})
}

// checkStepNames looks for error texts of the product that begin with the name of a step of an operation.
func checkStepNames(t *Tree) []Finding {
	steps := map[string]bool{}
	t.each(product, func(_ *File, n ast.Node) []Finding {
		if name := stepName(n); name != "" {
			steps[name] = true
		}
		return nil
	})
	return t.each(product, func(f *File, n ast.Node) []Finding {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return nil
		}
		pkg, name, _ := selector(call.Fun)
		if pkg+"."+name != "fmt.Errorf" && pkg+"."+name != "errors.New" {
			return nil
		}
		words := strings.FieldsFunc(text(call.Args[0]), func(r rune) bool { return r == ' ' || r == ':' })
		for i := range words {
			if begins := strings.Join(words[:i+1], " "); steps[begins] {
				return []Finding{t.find(f, n, "error text that begins like the step %q", begins)}
			}
		}
		return nil
	})
}

// stepName is the Name of a literal with fields Name and Do, "" for anything else.
func stepName(n ast.Node) string {
	lit, ok := n.(*ast.CompositeLit)
	if !ok {
		return ""
	}
	fields := map[string]ast.Expr{}
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok {
				fields[key.Name] = kv.Value
			}
		}
	}
	if fields["Name"] == nil || fields["Do"] == nil {
		return ""
	}
	return text(fields["Name"])
}

func checkErrorMatching(t *Tree) []Finding {
	compares := []string{"Contains", "HasPrefix", "HasSuffix", "EqualFold", "Index"}
	return t.each(product, func(f *File, n ast.Node) []Finding {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return nil
		}
		pkg, name, _ := selector(call.Fun)
		inner, ok := call.Args[0].(*ast.CallExpr)
		if !ok || pkg != "strings" || !slices.Contains(compares, name) {
			return nil
		}
		if s, ok := inner.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Error" && len(inner.Args) == 0 {
			return []Finding{t.find(f, n, "strings.%s on an error's text", name)}
		}
		return nil
	})
}

var drawers = []string{"util", "utils", "common", "helper", "helpers", "base", "misc", "types", "manager", "impl", "lib", "factory"}

func checkPackageNames(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.Go {
		if slices.Contains(drawers, strings.TrimSuffix(f.AST.Name.Name, "_test")) {
			found = append(found, t.find(f, f.AST.Name, "package %s", f.AST.Name.Name))
		}
	}
	return found
}

func checkPrints(t *Tree) []Finding {
	return t.each(library, func(f *File, n ast.Node) []Finding {
		pkg, name, ok := selector(n)
		if ok && pkg == "fmt" && strings.HasPrefix(name, "Print") {
			return []Finding{t.find(f, n, "%s.%s", pkg, name)}
		}
		if id, ok := n.(*ast.CallExpr); ok {
			if b, ok := id.Fun.(*ast.Ident); ok && (b.Name == "print" || b.Name == "println") {
				return []Finding{t.find(f, n, "%s", b.Name)}
			}
		}
		return nil
	})
}

func checkExits(t *Tree) []Finding {
	return t.each(library, func(f *File, n ast.Node) []Finding {
		if pkg, name, ok := selector(n); ok && pkg == "os" && name == "Exit" {
			return []Finding{t.find(f, n, "os.Exit")}
		}
		if call, ok := n.(*ast.CallExpr); ok {
			if b, ok := call.Fun.(*ast.Ident); ok && b.Name == "panic" {
				return []Finding{t.find(f, n, "panic")}
			}
		}
		return nil
	})
}

var openEnd = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b(\(#\d+\))?`)

func checkTodos(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.Go {
		for _, group := range f.AST.Comments {
			for _, c := range group.List {
				if m := openEnd.FindStringSubmatch(c.Text); m != nil && m[2] == "" && !f.under("test/house") {
					found = append(found, t.find(f, c, "%s without the number of its issue, %s(#n)", m[1], m[1]))
				}
			}
		}
	}
	return found
}

func checkSkips(t *Tree) []Finding {
	return t.each(func(*File) bool { return true }, func(f *File, n ast.Node) []Finding {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return nil
		}
		_, name, ok := selector(call.Fun)
		if !ok {
			return nil
		}
		if name == "SkipNow" || name == "Skip" && (len(call.Args) == 0 || text(call.Args[0]) == "" && isLiteral(call.Args[0])) {
			return []Finding{t.find(f, n, "%s without a reason", name)}
		}
		return nil
	})
}

func isLiteral(e ast.Expr) bool { _, ok := e.(*ast.BasicLit); return ok }

// checkMachinePaths looks for the paths of the machine it runs on: where this tree lies, and where Go keeps its modules.
func checkMachinePaths(t *Tree) []Finding {
	var here []string
	homeDir, _ := os.UserHomeDir()
	for _, p := range []string{t.Root, homeDir + "/go/"} {
		if strings.Count(p, "/") > 1 {
			here = append(here, p)
		}
	}
	var found []Finding
	look := func(name, src string) {
		for i, line := range strings.Split(src, "\n") {
			for _, p := range here {
				if strings.Contains(line, p) {
					found = append(found, Finding{name, i + 1, "names " + p})
				}
			}
		}
	}
	for _, f := range t.Go {
		look(f.Path, f.Src)
	}
	for _, o := range t.Other {
		look(o.Path, o.Src)
	}
	return found
}
