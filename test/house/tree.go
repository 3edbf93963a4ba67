// SPDX-License-Identifier: Apache-2.0

// Package house states the rules of this code base as checks over its syntax trees, each with its reason.
//
// The rules look at what is in the work tree, parsed, never type-checked: they are quick, need no build, and are meant
// to catch the slope, not the ingenious. What needs types is left to go vet and to the linters of .golangci.yml. A rule
// has no list of exceptions besides the tables in this package, and a table changes only in a commit of its own.
package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Rule is one rule of the house.
type Rule struct {
	Name  string
	Why   string // printed with every finding
	Check func(*Tree) []Finding
}

// Finding is one place where a rule does not hold.
type Finding struct {
	Path string // relative to the tree's root
	Line int    // 0 when the finding is about the whole file or folder
	What string
}

// String is the finding the way compilers print theirs.
func (f Finding) String() string {
	if f.Line == 0 {
		return f.Path + ": " + f.What
	}
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.What)
}

// Rules lists every rule.
func Rules() []Rule {
	return slices.Concat(importRules, sizeRules, wordRules, concurrencyRules, documentRules, switchRules, testRules, targetRules)
}

// Tree is a parsed work tree.
type Tree struct {
	Root  string
	Go    []*File
	Other []Text // every other text file
	fset  *token.FileSet
}

// File is one parsed Go file.
type File struct {
	Path string // relative, with slashes
	Src  string
	AST  *ast.File
}

// Text is a file that is not Go.
type Text struct{ Path, Src string }

// Folders that hold no source of ours.
var skipped = []string{".git", ".cache", "bin", "testdata", "vendor", "node_modules"}

// Load parses the tree at root. A Go file that does not parse is an error: nothing can be said about it.
func Load(root string) (*Tree, error) {
	t := &Tree{Root: root, fset: token.NewFileSet()}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(skipped, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return t.add(name)
	})
	if err != nil {
		return nil, fmt.Errorf("load tree %s: %w", root, err)
	}
	return t, nil
}

func (t *Tree) add(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(t.Root, name)
	if err != nil {
		return err
	}
	rel = filepath.ToSlash(rel)
	if !strings.HasSuffix(rel, ".go") {
		if !strings.Contains(string(data[:min(len(data), 1024)]), "\x00") {
			t.Other = append(t.Other, Text{Path: rel, Src: string(data)})
		}
		return nil
	}
	file, err := parser.ParseFile(t.fset, rel, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	t.Go = append(t.Go, &File{Path: rel, Src: string(data), AST: file})
	return nil
}

func (t *Tree) find(f *File, n ast.Node, format string, args ...any) Finding {
	return Finding{Path: f.Path, Line: t.fset.Position(n.Pos()).Line, What: fmt.Sprintf(format, args...)}
}

// each calls visit for every node of every file that keep wants and gathers what it finds.
func (t *Tree) each(keep func(*File) bool, visit func(*File, ast.Node) []Finding) []Finding {
	var found []Finding
	for _, f := range t.Go {
		if !keep(f) {
			continue
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if n != nil {
				found = append(found, visit(f, n)...)
			}
			return true
		})
	}
	return found
}

func (f *File) dir() string  { return path.Dir(f.Path) }
func (f *File) isTest() bool { return strings.HasSuffix(f.Path, "_test.go") }
func (f *File) isMain() bool { return f.AST.Name.Name == "main" }
func (f *File) under(dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(f.Path, d+"/") })
}

// product is what ships: the daemon, the monitor, pause and the library packages, without their tests.
func product(f *File) bool { return f.under("pkg", "cmd") && !f.isTest() }

// library is the product without its mains.
func library(f *File) bool { return product(f) && !f.isMain() }

// anyCode is all Go code except tests.
func anyCode(f *File) bool { return !f.isTest() }

// selector splits pkg.Name; ok is false for anything else.
func selector(n ast.Node) (pkg, name string, ok bool) {
	s, isSel := n.(*ast.SelectorExpr)
	if !isSel {
		return "", "", false
	}
	x, isIdent := s.X.(*ast.Ident)
	if !isIdent {
		return "", "", false
	}
	return x.Name, s.Sel.Name, true
}

// text is the value of a string literal, or "".
func text(n ast.Node) string {
	lit, ok := n.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}
