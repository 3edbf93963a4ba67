// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

const (
	// maxRemoveDepth is how deep Remove goes before it moves what is deeper up to the root of the tree: the kernel
	// keeps all directories above an open one in memory.
	maxRemoveDepth = heldLevels
	// maxRemoveErrors ends it: a tree in which so much can't be removed is better left alone.
	maxRemoveErrors = 64
	// maxIdleReads is how often in a row a directory is read again, or a tree emptied again, without success: somebody
	// else is at work in it, or the filesystem lists what is not there.
	maxIdleReads = 100
)

// Remove removes path and everything below it; a missing path is success. The tree may be an untrusted user's, of any
// depth and width: descriptors and memory are bounded, symlinks are not followed, and nothing is removed through a
// mount. Others may remove the same at the same time. What can't be removed stays, the rest goes, and the error names
// the first such thing, how deep it is, and why as far as the kernel tells: a mount point (EBUSY), an immutable file
// or directory (EPERM). It ends with the context's error when ctx does.
func Remove(ctx context.Context, path string) error {
	path = filepath.Clean(path)
	parent, err := sys.Retry(func() (int, error) {
		return unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(parent)
	if err := removeBelow(ctx, parent, filepath.Base(path)); err != nil {
		return fmt.Errorf("remove tree %s: %w", path, err)
	}
	return nil
}

// removeBelow empties and removes one entry of a directory. Again, when something was put into it meanwhile.
func removeBelow(ctx context.Context, parent int, name string) error {
	for tries := 0; ; tries++ {
		err := unlink(parent, name, unix.DT_UNKNOWN)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.ENOTEMPTY) || tries == maxIdleReads {
			return explain(parent, name, err)
		}
		fd, err := openDirAt(parent, name)
		if errors.Is(err, unix.EXDEV) {
			return explain(parent, name, unix.EBUSY)
		}
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return explain(parent, name, err)
		}
		if err := empty(ctx, fd); err != nil {
			return err
		}
	}
}

// unlink removes a name, or an empty directory; ENOTEMPTY for another.
func unlink(dir int, name string, kind byte) error {
	err := error(unix.EISDIR)
	if kind != unix.DT_DIR {
		err = unix.Unlinkat(dir, name, 0)
	}
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.EEXIST) { // POSIX allows both
		return unix.ENOTEMPTY
	}
	return err
}

// removal is the emptying of one directory under way.
type removal struct {
	d      *Descent
	passes []pass // of each level
	first  error
	errors int
}

// pass is one reading of a directory from its start to its end.
type pass struct {
	entered  uint64 // the entry that was entered last, by its inode
	removed  bool   // something was removed
	vanished bool   // something was gone when it was to be removed
	idle     int    // passes before this one in which nothing was removed
}

// empty removes everything in a directory, whose descriptor it owns.
func empty(ctx context.Context, fd int) error {
	d, err := newDescent(fd)
	if err != nil {
		return err
	}
	defer d.Close()
	r := &removal{d: d, passes: make([]pass, 1)}
	for seen := 0; d.Depth() > 0; seen++ {
		if seen%ctxEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.errors >= maxRemoveErrors {
			break
		}
		e, ok, err := d.Read()
		if err != nil {
			r.note(err)
		}
		if ok {
			r.remove(e)
		} else {
			r.end()
		}
	}
	return r.first
}

// end is the end of a directory. It is read again if something was removed, because on some filesystems (tmpfs before
// Linux 6.6) that moves what was not read yet.
func (r *removal) end() {
	p := r.pass()
	if p.removed {
		p.idle = 0
	} else {
		p.idle++
	}
	if p.removed || p.vanished && p.idle < maxIdleReads {
		*p = pass{idle: p.idle}
		r.d.seek(0)
		return
	}
	err := r.d.Leave()
	r.passes = r.passes[:r.d.Depth()]
	if err != nil && r.d.Depth() > 0 {
		r.pass().vanished = true // lost the way: from there again
	}
}

// pass is that of the deepest level.
func (r *removal) pass() *pass { return &r.passes[len(r.passes)-1] }

func (r *removal) remove(e Entry) {
	p := r.pass()
	err := unlink(r.d.FD(), e.Name, e.Kind)
	switch {
	case err == nil:
		p.removed = true
	case errors.Is(err, unix.ENOENT):
		p.vanished = true
	case !errors.Is(err, unix.ENOTEMPTY), p.entered == e.ino:
		r.note(r.explain(e.Name, err))
	case len(r.passes) > maxRemoveDepth && r.moveUp(e.Name):
		p.removed, r.passes[0].removed = true, true
	default:
		r.enter(e)
	}
}

func (r *removal) enter(e Entry) {
	p := r.pass()
	switch err := r.d.Enter(e.Name); {
	case err == nil:
		r.d.levels[len(r.passes)-1].off = e.before // to remove it when it is empty
		p.entered = e.ino
		r.passes = append(r.passes, pass{})
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // another one removes it, too
		p.vanished = true
	default:
		r.note(r.explain(e.Name, err))
	}
}

// moveUp gives a directory a new name in the root of the tree. A filesystem without room for the name, or one that has
// quotas of its own below the root, refuses: then the way is further down.
func (r *removal) moveUp(name string) bool {
	return unix.Renameat2(r.d.FD(), name, r.d.levels[0].fd, ".removed-"+rand.Text(), unix.RENAME_NOREPLACE) == nil
}

func (r *removal) note(err error) {
	r.errors++
	if r.first == nil {
		r.first = err
	}
}

func (r *removal) explain(name string, err error) error {
	err = explain(r.d.FD(), name, err)
	if below := r.d.Depth() - 1; below > 0 {
		return fmt.Errorf("%d directories down: %w", below, err)
	}
	return err
}

// explain says what stands in the way of a removal.
func explain(dir int, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EXDEV):
		return fmt.Errorf("remove %q: it is a mount point: %w", name, err)
	case errors.Is(err, unix.EPERM) && immutable(dir, name):
		return fmt.Errorf("remove %q: it is immutable or append-only (chattr): %w", name, err)
	case errors.Is(err, unix.EPERM) && immutable(dir, ""):
		return fmt.Errorf("remove %q: its directory is immutable or append-only (chattr): %w", name, err)
	}
	return fmt.Errorf("remove %q: %w", name, err)
}

// immutable asks for the attributes of a directory's entry, or with an empty name of the directory.
func immutable(dir int, name string) bool {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0
}
