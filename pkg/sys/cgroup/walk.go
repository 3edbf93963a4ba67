// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/tree"
)

// dirVisit is what is done with each directory of a walk. Either may be nil.
type dirVisit struct {
	enter func(dir int) error                // before those below it
	leave func(above int, name string) error // after those below it; not for the first directory
}

// dirWalk goes through a cgroup and those below it. A container with a writable cgroup filesystem nests them deeper
// than any path reaches. The names in a directory are read at once: a cgroup costs the kernel far more than its name
// costs us, and the place in a directory is a hash of a name that the container chose, so it is no place to read on at.
type dirWalk struct {
	d     *tree.Descent
	visit dirVisit
	below [][]string // of each level, what was not visited yet
	names []string   // of each level but the first
}

// walkDirs visits the directory dir and those below it, those that are removed meanwhile excepted. There being none
// is success. What is mounted over a cgroup is not entered; its leave is called.
func walkDirs(ctx context.Context, dir string, visit dirVisit) error {
	d, err := tree.Descend(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer d.Close()
	w := &dirWalk{d: d, visit: visit}
	if err := w.run(ctx); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

func (w *dirWalk) run(ctx context.Context) error {
	if err := w.arrive(); err != nil {
		return err
	}
	for w.d.Depth() > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.step(); err != nil {
			return fmt.Errorf("%d cgroups down: %w", len(w.names), err)
		}
	}
	return nil
}

// step goes down into the next directory, or back up.
func (w *dirWalk) step() error {
	next := &w.below[len(w.below)-1]
	if len(*next) == 0 {
		return w.back()
	}
	name := (*next)[0]
	*next = (*next)[1:]
	switch err := w.d.Enter(name); {
	case err == nil:
		w.names = append(w.names, name)
		return w.arrive()
	case errors.Is(err, unix.EXDEV):
		return w.left(name)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENODEV):
		return nil // removed meanwhile
	default:
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
}

func (w *dirWalk) arrive() error {
	var below []string
	for {
		e, ok, err := w.d.Read()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if e.Kind == unix.DT_DIR || e.Kind == unix.DT_UNKNOWN {
			below = append(below, e.Name)
		}
	}
	w.below = append(w.below, below)
	if w.visit.enter == nil {
		return nil
	}
	return w.visit.enter(w.d.FD())
}

func (w *dirWalk) back() error {
	err := w.d.Leave()
	depth := w.d.Depth()
	w.below = w.below[:depth]
	if depth == 0 {
		return nil
	}
	name := w.names[depth-1]
	w.names = w.names[:depth-1]
	if err != nil {
		return nil //nolint:nilerr // lost the way between removed directories: on with those above
	}
	return w.left(name)
}

func (w *dirWalk) left(name string) error {
	if w.visit.leave == nil {
		return nil
	}
	return w.visit.leave(w.d.FD(), name)
}

// Procs calls do with the number of each process in a cgroup directory and those below it, possibly more than
// once. Zombies are in cgroup v1's lists until they are reaped. There being no such directory is success.
func Procs(ctx context.Context, dir string, do func(pid int)) error {
	var buf []byte
	return walkDirs(ctx, dir, dirVisit{enter: func(dir int) error {
		raw, err := sys.ReadSmallAt(dir, "cgroup.procs", buf)
		if errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup; a thread that leads its process has the same number
			raw, err = sys.ReadSmallAt(dir, "cgroup.threads", buf)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		buf = raw[:0]
		eachPID(raw, do)
		return nil
	}})
}
