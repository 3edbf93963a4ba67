// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var targetRules = []Rule{
	{"make targets", "a document that names a target which the Makefile does not have is found out by the newcomer", checkMakeTargets},
	{"fuzz seeds", "without seeds a fuzz target needs hours to find the form of what it reads", checkSeeds},
}

var (
	namedTarget   = regexp.MustCompile("(?m)(?:`|^\\s*|sudo )make((?: [a-z][a-z0-9/-]*)+)")
	definedTarget = regexp.MustCompile(`(?m)^([a-z][a-z0-9 %-]*):`)
)

// checkMakeTargets looks for `make TARGET ...` in the documents.
func checkMakeTargets(t *Tree) []Finding {
	var defined []string // patterns
	for _, o := range t.Other {
		if o.Path != "Makefile" {
			continue
		}
		for _, m := range definedTarget.FindAllStringSubmatch(o.Src, -1) {
			for name := range strings.FieldsSeq(m[1]) {
				defined = append(defined, strings.ReplaceAll(name, "%", "*"))
			}
		}
	}
	var found []Finding
	for _, o := range t.Other {
		if strings.HasSuffix(o.Path, ".md") {
			found = append(found, undefinedTargets(o, defined)...)
		}
	}
	return found
}

func undefinedTargets(o Text, defined []string) []Finding {
	var found []Finding
	for _, m := range namedTarget.FindAllStringSubmatchIndex(o.Src, -1) {
		for name := range strings.FieldsSeq(o.Src[m[2]:m[3]]) {
			matches := func(pattern string) bool {
				ok, _ := path.Match(pattern, name)
				return ok
			}
			if !slices.ContainsFunc(defined, matches) && !strings.Contains(name, "/") { // a file is made by its rule
				found = append(found, o.find(m[2], "the Makefile has no target "+name))
			}
		}
	}
	return found
}

// checkSeeds: a fuzz target adds seeds, or has them in testdata/fuzz.
func checkSeeds(t *Tree) []Finding {
	return t.each((*File).isTest, func(f *File, n ast.Node) []Finding {
		d, ok := n.(*ast.FuncDecl)
		if !ok || d.Recv != nil || !strings.HasPrefix(d.Name.Name, "Fuzz") || adds(d) {
			return nil
		}
		dir := filepath.Join(t.Root, filepath.FromSlash(path.Join(f.dir(), "testdata/fuzz", d.Name.Name)))
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return nil
		}
		return []Finding{t.find(f, n, "%s has no seeds", d.Name.Name)}
	})
}

// adds tells whether a fuzz target calls Add of its argument.
func adds(d *ast.FuncDecl) bool {
	if len(d.Type.Params.List) != 1 || len(d.Type.Params.List[0].Names) != 1 || d.Body == nil {
		return false
	}
	of, found := d.Type.Params.List[0].Names[0].Name, false
	ast.Inspect(d.Body, func(n ast.Node) bool {
		x, name, ok := selector(n)
		found = found || ok && x == of && name == "Add"
		return !found
	})
	return found
}
