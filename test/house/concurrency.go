// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
)

// goroutines names every file of the product that may start one, and who ends it.
var goroutines = map[string]string{
	"cmd/cri-monitor/signals.go":      "the log's word on signals that end nothing, ended by the monitor's context",
	"cmd/cri-shim/run.go":             "the reader of the exit feed, ended by the daemon's context",
	"cmd/cri-shim/signals.go":         "the log's word on signals that end nothing, ended by the daemon's context",
	"pkg/container/attach.go":         "copies between a client and a container, ended by closing the session",
	"pkg/container/stdio/attached.go": "copies of a container's output, ended with the session",
	"pkg/container/stdio/pipes.go":    "copies of an exec session, ended by closing its descriptors",
	"pkg/container/stdio/untaken.go":  "waits for a container's end while output is delivered, ended with that",
	"pkg/stream/service.go":           "waits for sessions while the daemon stops",
	"pkg/keyed/flight.go":             "one call per key, ended by itself, its last caller, Forget or Close: pulls, walks of directories, questions to plugins",
	"pkg/monitor/container/exit.go":   "the last drain of a container that ended, bounded by what its pipes hold",
	"pkg/monitor/crilog/output.go":    "what waits for the file system of a log, and the last drain of an output, bounded by what its pipes hold",
	"pkg/monitor/crilog/stream.go":    "one drain of a readable stream at a time, bounded by its buffer",
	"pkg/monitor/parent/conn.go":      "one reader, one writer and the requests at work per client, ended with its connection",
	"pkg/monitor/parent/monitor.go":   "reaper, poller and listener, ended by the monitor's context or its end",
	"pkg/monitor/parent/upgrade.go":   "the switch to the next program, which waits until the connections are quiet",
	"pkg/monitor/client.go":           "the connection's reader and the exit feed, ended by Run's context",
	"pkg/monitor/link.go":             "the undoing of a late answer, ended by detachTimeout or the connection's end",
	"pkg/monitor/start.go":            "reaps a monitor that dies before its daemon",
	"pkg/server/events.go":            "one event at a time on its way to a client, ended with the client's stream",
	"pkg/state/op.go":                 "operations run on their own context, not their caller's; Ops waits for them",
	"pkg/state/writable.go":           "one write at a time to a disk that refused the last one; left behind while that hangs",
	"pkg/stats/ask.go":                "the questions about the containers of one answer, ended with their patience",
	"pkg/sys/program/command.go":      "the wait for a program and the reads of its output, ended by its time limit",
	"pkg/sys/cgroup/movelock.go":      "one write to a cgroup file at a time, which ends with a grace period of the kernel",
	"pkg/sys/firstthread.go":          "the program itself, off the first thread; main waits for its end",
	"pkg/sys/lock.go":                 "a wait for the lock of a process that is ending, which ends with it",
	"pkg/sys/netns/netns.go":          "a thread that enters a pod's network namespace and ends if it can't come back",
	"pkg/sys/hostpath/hostpath.go":    "a look at a path that may never return is left behind with its thread",
}

var concurrencyRules = []Rule{
	{"goroutines", "each goroutine needs an owner who ends it; the table in test/house/concurrency.go names them", checkGoroutines},
	{"init functions", "what runs before main can't be ordered, configured, logged or tested", checkInits},
	{"contexts", "work without its caller's context can't be cancelled or timed; cleanup takes context.WithoutCancel", checkContexts},
	{"sleeps", "a sleep is either too long or a race; wait for the event", checkSleeps},
}

func checkGoroutines(t *Tree) []Finding {
	used := map[string]bool{}
	found := t.each(product, func(f *File, n ast.Node) []Finding {
		_, starts := n.(*ast.GoStmt)
		used[f.Path] = used[f.Path] || starts
		if starts && goroutines[f.Path] == "" {
			return []Finding{t.find(f, n, "go statement in a file that is not in the table")}
		}
		return nil
	})
	for name := range goroutines {
		if starts, there := used[name]; there && !starts {
			found = append(found, Finding{name, 0, "in the table, yet it starts no goroutine"})
		}
	}
	return found
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
