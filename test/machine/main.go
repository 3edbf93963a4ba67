// SPDX-License-Identifier: Apache-2.0

// Command machine runs the project's tests on machines that users have and this one is not: with cgroup v2, with systemd,
// with AppArmor or SELinux, with another OCI runtime.
//
// A machine is Linux in user mode, a kernel that runs as a process, or, where that cannot be, a kernel of Debian's in an
// emulator; on a disk that holds one of Debian's releases. Kernel and disk are made of Debian's packages once and kept in
// the user's cache folder, under a hash of what they were made from; each run works on a copy of the disk that is written
// to where it differs, and the copy is gone with the run. The tree is in the machine read-only by use: what a run leaves
// is its logs, in .cache/machine.
//
// It prints one line of results for each machine, or one that says why the machine cannot be had.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
	"golang.org/x/sync/errgroup"
)

func main() {
	shell := flag.Bool("shell", false, "give a shell in the machine, and run nothing else")
	list := flag.Bool("list", false, "list the machines and what runs on each")
	build := flag.Bool("build", false, "make what the machines need, and run nothing")
	short := flag.Bool("short", false, "run what is enough for every change")
	tests := flag.String("tests", "", "of the suites of tests run only what matches this regular expression, and nothing else")
	steps := flag.String("steps", "", "run only the steps with these names, separated by commas")
	made := flag.Bool("made", false, "tell whether the machines can be booted at once; what is not made yet is named")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: machine [flags] [NAME...]\n\nAll machines unless some are named.\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	machines, err := named(flag.Args())
	if *short {
		machines = shortened(machines)
	}
	if *tests != "" {
		machines = only(*tests, machines)
	}
	if err == nil && *steps != "" {
		machines, err = chosen(strings.Split(*steps, ","), machines)
	}
	switch {
	case err != nil:
	case *list:
		describe(machines)
	case *made:
		err = allMade(ctx, machines)
	case *build:
		err = makeAll(ctx, machines)
	case *shell:
		err = giveShell(ctx, machines)
	default:
		err = runAll(ctx, machines)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		os.Exit(1)
	}
}

// named are the machines with these names, all of them if there are none.
func named(names []string) ([]machine, error) {
	if len(names) == 0 {
		return table(), nil
	}
	var out []machine
	for _, name := range names {
		i := indexOf(table(), name)
		if i < 0 {
			return nil, fmt.Errorf("find machine %q: there is none of that name; -list has the names", name)
		}
		out = append(out, table()[i])
	}
	return out, nil
}

// shortened are the machines with the steps that are enough for every change.
func shortened(machines []machine) []machine {
	for i, m := range machines {
		if m.short != nil {
			machines[i].steps = m.short
		}
	}
	return machines
}

// only are the machines with nothing to do but those tests.
func only(tests string, machines []machine) []machine {
	for i := range machines {
		var steps []step
		for _, s := range machines[i].steps {
			if s.folder != "" {
				s.argv = append(slices.Clone(s.argv), "-test.run", tests)
				steps = append(steps, s)
			}
		}
		machines[i].steps = steps
	}
	return machines
}

// chosen are the machines with the steps of these names.
func chosen(names []string, machines []machine) ([]machine, error) {
	for i, m := range machines {
		machines[i].steps = slices.DeleteFunc(slices.Clone(m.steps), func(s step) bool { return !slices.Contains(names, s.name) })
		if len(machines[i].steps) == 0 {
			return nil, fmt.Errorf("choose steps of %s: none is named %s; -list has the names", m.name, strings.Join(names, " or "))
		}
	}
	return machines, nil
}

func describe(machines []machine) {
	for _, m := range machines {
		fmt.Printf("%-8s %s\n", m.name, m.what)
		for _, s := range m.steps {
			fmt.Printf("         %-12s %s\n", s.name, strings.Join(s.argv, " "))
		}
	}
}

// makeAll makes what the machines are made of, and says in one line each which cannot be had.
func makeAll(ctx context.Context, machines []machine) error {
	root, err := node.Root()
	if err != nil {
		return err
	}
	for _, m := range machines {
		if err := m.ready(ctx, root); err != nil {
			fmt.Printf("machine %s cannot be had: %v\n", m.name, err)
		}
	}
	return context.Cause(ctx)
}

// allMade fails with what has not been made yet, or does not boot here.
func allMade(ctx context.Context, machines []machine) error {
	root, err := node.Root()
	if err != nil {
		return err
	}
	for _, m := range machines {
		for _, p := range []part{m.kernel.part(), m.disk.part()} {
			path, err := p.path(root)
			if err == nil {
				_, err = os.Stat(path)
			}
			if err != nil {
				fmt.Printf("the %s of %s is not made yet: make machines makes it, once", p.name, p.release)
				return err
			}
		}
		if err := m.kernel.boots(ctx, root); err != nil {
			fmt.Print(err)
			return err
		}
	}
	return nil
}

// atOnce is how many machines run side by side: each has one processor.
const atOnce = 2

// runAll runs the machines and prints their results. The error names those that failed; one that cannot be had has not.
func runAll(ctx context.Context, machines []machine) error {
	root, err := node.Root()
	if err != nil {
		return err
	}
	results := make([]result, len(machines))
	var had []machine
	for i, m := range machines {
		if results[i] = (result{machine: m, absent: m.ready(ctx, root)}); results[i].absent == nil {
			had = append(had, m)
		}
	}
	if len(had) > 0 {
		if err := buildTests(ctx, root, had); err != nil {
			return err
		}
	}
	var running errgroup.Group
	running.SetLimit(atOnce)
	for i := range results {
		running.Go(func() error {
			if r := &results[i]; r.absent == nil {
				r.machine.run(ctx, root, r)
			}
			fmt.Print(results[i])
			return nil
		})
	}
	_ = running.Wait()
	var failed []string
	for _, r := range results {
		if r.failed() {
			failed = append(failed, r.machine.name)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, " "))
	}
	return nil
}

// run boots a machine, has it do its steps and reads what came of them.
func (m machine) run(ctx context.Context, root string, r *result) {
	begin := time.Now()
	r.dir = filepath.Join(root, ".cache", "machine", m.name)
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	if r.err = os.RemoveAll(r.dir); r.err == nil {
		r.err = m.boot(ctx, root, r.dir, nil)
	}
	r.took = time.Since(begin).Round(time.Second)
	r.read()
}

func giveShell(ctx context.Context, machines []machine) error {
	if len(machines) != 1 {
		return errors.New("a shell is given in one machine: name it")
	}
	m := machines[0]
	root, err := node.Root()
	if err == nil {
		err = m.ready(ctx, root)
	}
	if err == nil {
		err = buildTests(ctx, root, machines)
	}
	if err != nil {
		return err
	}
	dir := filepath.Join(root, ".cache", "machine", m.name)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return m.boot(ctx, root, dir, os.Stdin)
}
