// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
	"path"
	"strings"
)

// testOnly names fields that only tests set, and why the product leaves them alone.
var testOnly = map[string]string{
	"network.Options.Timeout":  "2 minutes is what the kubelet gives; the tests of plugins that hang do not wait so long",
	"stats.Options.CgroupRoot": "a tree of files that the test wrote stands for the kernel's",
}

var switchRules = []Rule{
	{"switches", "an option that no program sets can't be reached by anybody: it is wired to a key, or it goes", checkSwitches},
	{"keys", "a key of the configuration that no code reads is a promise that nobody keeps", checkKeys},
}

// checkSwitches looks at the structs that are handed to a package: those named Options, or whatever ends so or in Input.
// A field is set where a literal of the struct names it, or where a function assigns to it in a variable that it made of
// such a literal, or got from another package's type. A default that a package gives its own field sets nothing.
func checkSwitches(t *Tree) []Finding {
	set := map[string]bool{}
	for _, f := range t.Go {
		if product(f) {
			ast.Inspect(f.AST, func(n ast.Node) bool { f.noteSet(n, set); return true })
		}
	}
	return t.each(library, func(f *File, n ast.Node) []Finding {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || !isSwitchboard(spec.Name.Name) {
			return nil
		}
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			return nil
		}
		var found []Finding
		for _, field := range st.Fields.List {
			for _, name := range field.Names {
				switch full := path.Base(f.dir()) + "." + spec.Name.Name + "." + name.Name; {
				case name.IsExported() && !set[full] && testOnly[full] == "":
					found = append(found, t.find(f, name, "no program sets %s", full))
				case set[full] && testOnly[full] != "":
					found = append(found, t.find(f, name, "%s is in the table of what only tests set", full))
				}
			}
		}
		return found
	})
}

// checkKeys looks at the structs that a program's configuration file is read into: those of its main package whose name
// ends in Config. A field is read where the package selects it.
func checkKeys(t *Tree) []Finding {
	inMain := func(f *File) bool { return product(f) && f.isMain() }
	read := map[string]bool{}
	t.each(inMain, func(f *File, n ast.Node) []Finding {
		if s, ok := n.(*ast.SelectorExpr); ok {
			read[f.dir()+":"+s.Sel.Name] = true
		}
		return nil
	})
	return t.each(inMain, func(f *File, n ast.Node) []Finding {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || !strings.HasSuffix(spec.Name.Name, "Config") {
			return nil
		}
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			return nil
		}
		var found []Finding
		for _, field := range st.Fields.List {
			for _, name := range field.Names {
				if !read[f.dir()+":"+name.Name] {
					found = append(found, t.find(f, name, "nothing reads %s.%s", spec.Name.Name, name.Name))
				}
			}
		}
		return found
	})
}

func isSwitchboard(name string) bool {
	return ast.IsExported(name) && (strings.HasSuffix(name, "Options") || strings.HasSuffix(name, "Input"))
}

// noteSet records as package.Type.Field the keys of a literal, and what a function assigns to.
func (f *File) noteSet(n ast.Node, set map[string]bool) {
	switch n := n.(type) {
	case *ast.CompositeLit:
		of := f.typeName(n.Type)
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok {
					set[of+"."+key.Name] = true
				}
			}
		}
	case *ast.FuncDecl:
		f.noteAssigned(n, set)
	}
}

// noteAssigned follows the variables of one function whose type can be read off the page.
func (f *File) noteAssigned(fn *ast.FuncDecl, set map[string]bool) {
	types := map[string]string{}
	for _, p := range fn.Type.Params.List {
		if of := f.typeName(p.Type); !strings.HasPrefix(of, path.Base(f.dir())+".") {
			for _, name := range p.Names {
				types[name.Name] = of
			}
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		as, ok := n.(*ast.AssignStmt)
		if !ok {
			return true
		}
		for i, to := range as.Lhs {
			if id, ok := to.(*ast.Ident); ok && i < len(as.Rhs) {
				types[id.Name] = f.literalType(as.Rhs[i])
			}
			if of, field, ok := selector(to); ok && types[of] != "" {
				set[types[of]+"."+field] = true
			}
		}
		return true
	})
}

// literalType is the type of T{} and &T{}, "" of anything else.
func (f *File) literalType(e ast.Expr) string {
	if u, ok := e.(*ast.UnaryExpr); ok {
		e = u.X
	}
	if lit, ok := e.(*ast.CompositeLit); ok {
		return f.typeName(lit.Type)
	}
	return ""
}

// typeName writes a type, or a pointer to it, as package.Type; "" for a type without a name.
func (f *File) typeName(e ast.Expr) string {
	if p, ok := e.(*ast.StarExpr); ok {
		e = p.X
	}
	if pkg, name, ok := selector(e); ok {
		return pkg + "." + name
	}
	if id, ok := e.(*ast.Ident); ok {
		return path.Base(f.dir()) + "." + id.Name
	}
	return ""
}
