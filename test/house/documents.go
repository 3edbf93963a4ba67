// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
	"go/token"
	"maps"
	"path"
	"slices"
	"strings"
)

var documentRules = []Rule{
	{"package docs", "the package comment is where a newcomer learns what it does, holds true and does not do", checkPackageDocs},
	{"exported docs", "an exported name is a promise, and a promise is written down", checkExportedDocs},
	{"licence", "every source file says its licence, in one line", checkLicence},
}

// checkPackageDocs wants one comment on each package, packages of nothing but tests among them.
func checkPackageDocs(t *Tree) []Finding {
	docs, first := map[string]int{}, map[string]string{}
	note := func(f *File) {
		if _, seen := first[f.dir()]; !seen {
			first[f.dir()] = f.Path
		}
		if f.AST.Doc != nil && strings.TrimSpace(f.AST.Doc.Text()) != "" {
			docs[f.dir()]++
		}
	}
	for _, f := range t.Go {
		if !f.isTest() {
			note(f)
		}
	}
	tested := maps.Clone(first)
	for _, f := range t.Go {
		if _, hasCode := tested[f.dir()]; f.isTest() && !hasCode {
			note(f)
		}
	}
	var found []Finding
	for dir, file := range first {
		switch n := docs[dir]; {
		case n == 0:
			found = append(found, Finding{file, 0, "package " + path.Base(dir) + " has no package comment"})
		case n > 1:
			found = append(found, Finding{file, 0, "package " + path.Base(dir) + " has more than one package comment"})
		}
	}
	return found
}

func checkExportedDocs(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.Go {
		if !library(f) {
			continue
		}
		for _, decl := range f.AST.Decls {
			for _, name := range undocumented(decl) {
				found = append(found, t.find(f, decl, "%s has no comment", name))
			}
		}
	}
	return found
}

// Methods of the standard library's interfaces, which are documented there.
var wellKnown = []string{"Error", "Unwrap", "Is", "As", "String", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText"}

func undocumented(decl ast.Decl) []string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		known := d.Recv != nil && slices.Contains(wellKnown, d.Name.Name)
		if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) && !known {
			return []string{d.Name.Name}
		}
	case *ast.GenDecl:
		if d.Tok == token.TYPE || d.Doc == nil {
			return undocumentedSpecs(d)
		}
	}
	return nil
}

// undocumentedSpecs: a comment over a group of constants or variables speaks for all of them; a type needs its own
// unless it is the group's only one.
func undocumentedSpecs(d *ast.GenDecl) []string {
	var names []string
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || len(d.Specs) > 1) {
				names = append(names, s.Name.Name)
			}
		case *ast.ValueSpec:
			if s.Names[0].IsExported() && s.Doc == nil && s.Comment == nil {
				names = append(names, s.Names[0].Name)
			}
		}
	}
	return names
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	recv := d.Recv.List[0].Type
	if p, ok := recv.(*ast.StarExpr); ok {
		recv = p.X
	}
	if g, ok := recv.(*ast.IndexExpr); ok {
		recv = g.X
	}
	id, ok := recv.(*ast.Ident)
	return ok && id.IsExported()
}

const licence = "SPDX-License-Identifier: Apache-2.0"

func checkLicence(t *Tree) []Finding {
	var found []Finding
	say := func(name, src string) {
		first, rest, _ := strings.Cut(src, "\n")
		if strings.HasPrefix(first, "#!") || strings.HasPrefix(first, "//go:build") {
			first, _, _ = strings.Cut(rest, "\n")
		}
		if !strings.Contains(first, licence) {
			found = append(found, Finding{name, 1, "the first line is not the SPDX line"})
		}
	}
	for _, f := range t.Go {
		say(f.Path, f.Src)
	}
	for _, o := range t.Other {
		if strings.HasSuffix(o.Path, ".c") || strings.HasSuffix(o.Path, ".sh") || strings.HasPrefix(o.Src, "#!") {
			say(o.Path, o.Src)
		}
	}
	return found
}
