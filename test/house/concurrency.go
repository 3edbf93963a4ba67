// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
)

// goroutines names every file of the product that may start one, and who ends it.
var goroutines = map[string]string{}

var concurrencyRules = []Rule{
	{"goroutines", "each goroutine needs an owner who ends it; the table in test/house/concurrency.go names them", checkGoroutines},
	{"init functions", "what runs before main can't be ordered, configured, logged or tested", checkInits},
	{"contexts", "work without its caller's context can't be cancelled or timed; cleanup takes context.WithoutCancel", checkContexts},
	{"sleeps", "a sleep is either too long or a race; wait for the event", checkSleeps},
}

func checkGoroutines(t *Tree) []Finding {
	return t.each(product, func(f *File, n ast.Node) []Finding {
		if _, ok := n.(*ast.GoStmt); ok && goroutines[f.Path] == "" {
			return []Finding{t.find(f, n, "go statement in a file that is not in the table")}
		}
		return nil
	})
}

func checkInits(t *Tree) []Finding {
	return t.each(anyCode, func(f *File, n ast.Node) []Finding {
		if d, ok := n.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
			return []Finding{t.find(f, n, "func init")}
		}
		return nil
	})
}

func checkContexts(t *Tree) []Finding {
	return t.each(library, func(f *File, n ast.Node) []Finding {
		pkg, name, ok := selector(n)
		if ok && pkg == "context" && (name == "Background" || name == "TODO") {
			return []Finding{t.find(f, n, "context.%s", name)}
		}
		return nil
	})
}

func checkSleeps(t *Tree) []Finding {
	return t.each(product, func(f *File, n ast.Node) []Finding {
		pkg, name, ok := selector(n)
		if ok && pkg == "time" && (name == "Sleep" || name == "Tick") {
			return []Finding{t.find(f, n, "time.%s", name)}
		}
		return nil
	})
}
