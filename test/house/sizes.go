// SPDX-License-Identifier: Apache-2.0

package house

import (
	"fmt"
	"go/ast"
	"strings"
)

// The limits of size. They are never raised: what does not fit is split by its data.
const (
	maxFunction = 80   // lines, from func to the closing brace
	maxFile     = 400  // lines
	maxParams   = 5    // besides the context
	maxMethods  = 7    // of an interface
	maxPackage  = 2000 // lines of the files of a package that are no tests
)

// foreign are methods whose signature somebody else's interface dictates.
var foreign = map[string]string{
	"ExecInContainer": "k8s.io/cri-streaming's Runtime",
	"AttachContainer": "k8s.io/cri-streaming's Runtime",
}

var sizeRules = []Rule{
	{"function length", "a function that does not fit a screen is read by nobody; the tail is what rots", checkFunctions},
	{"file length", "a file is a topic, and a topic has a name", checkFiles},
	{"package length", "a package is read as a whole, and one that takes more than an afternoon has several jobs", checkPackages},
	{"parameters", "more than five parameters are a struct that has no name yet", checkParams},
	{"interface width", "an interface wider than its user needs has no second implementation", checkInterfaces},
}

func checkFunctions(t *Tree) []Finding {
	return t.each(anyCode, func(f *File, n ast.Node) []Finding {
		d, ok := n.(*ast.FuncDecl)
		if !ok {
			return nil
		}
		lines := t.fset.Position(d.End()).Line - t.fset.Position(d.Pos()).Line + 1
		if lines <= maxFunction {
			return nil
		}
		return []Finding{t.find(f, n, "%s has %d lines, more than %d", d.Name.Name, lines, maxFunction)}
	})
}

func checkFiles(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.Go {
		if lines := strings.Count(f.Src, "\n"); anyCode(f) && lines > maxFile {
			found = append(found, Finding{f.Path, 0, fmt.Sprintf("%d lines, more than %d", lines, maxFile)})
		}
	}
	return found
}

func checkPackages(t *Tree) []Finding {
	lines, first := map[string]int{}, map[string]string{}
	for _, f := range t.Go {
		if anyCode(f) {
			lines[f.dir()] += strings.Count(f.Src, "\n")
			if first[f.dir()] == "" {
				first[f.dir()] = f.Path
			}
		}
	}
	var found []Finding
	for dir, n := range lines {
		if n > maxPackage {
			found = append(found, Finding{first[dir], 0, fmt.Sprintf("package of %d lines, more than %d", n, maxPackage)})
		}
	}
	return found
}

func checkParams(t *Tree) []Finding {
	return t.each(anyCode, func(f *File, n ast.Node) []Finding {
		d, ok := n.(*ast.FuncDecl)
		if !ok || foreign[d.Name.Name] != "" {
			return nil
		}
		count := 0
		for _, p := range d.Type.Params.List {
			if pkg, name, isSel := selector(p.Type); isSel && pkg == "context" && name == "Context" {
				continue
			}
			count += max(1, len(p.Names))
		}
		if count <= maxParams {
			return nil
		}
		return []Finding{t.find(f, n, "%s has %d parameters besides the context, more than %d", d.Name.Name, count, maxParams)}
	})
}

func checkInterfaces(t *Tree) []Finding {
	return t.each(product, func(f *File, n ast.Node) []Finding {
		i, ok := n.(*ast.InterfaceType)
		if !ok || i.Methods.NumFields() <= maxMethods {
			return nil
		}
		return []Finding{t.find(f, n, "interface of %d methods, more than %d", i.Methods.NumFields(), maxMethods)}
	})
}
