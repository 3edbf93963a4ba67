// SPDX-License-Identifier: Apache-2.0

package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Paths looks at paths of the host that users chose. A path on a network file system whose server is gone
// may never answer, and no signal ends the wait. So each call gives up when its context ends. The thread that asks is
// then left behind until the file system answers or is unmounted; it holds nothing else, and there is never more than
// one per path and question (Exists, Directory, a walk), however often it is asked. Errors are ErrUnavailable when there was no answer, ErrInvalidArgument when
// the path is at fault, and else ErrFailedPrecondition. The zero value is ready for use.
type Paths struct {
	mu    sync.Mutex // guards asked
	asked map[string]*inquiry
}

type inquiry struct {
	began time.Time
	done  chan struct{}
	err   error // to be read when done is closed
}

// hostPathLimit is how long all paths that one operation looks at may take to answer together. A lock is held
// meanwhile, and stopping a pod must not hang with a file server.
const hostPathLimit = 10 * time.Second

// Limited returns a context for looks at paths, which all together have 10 s to answer.
func (h *Paths) Limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return limited(ctx, hostPathLimit)
}

// limited gives a cause that is no deadline of the caller's: clients would take it for theirs.
func limited(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("checking all paths took longer than %s", limit))
}

// walkLimit is how long what looks at all below a path may take: a pod's stop waits for it at most.
const walkLimit = time.Minute

// Walk runs walk, whose name is what and which looks at all below path, unless it is running already. Its context ends
// after a minute, and walk then returns ErrUnavailable. A walk that a file system holds is left behind as other looks are.
func (h *Paths) Walk(ctx context.Context, what, path string, walk func(context.Context) error) error {
	return h.walk(ctx, what, path, walkLimit, walk)
}

func (h *Paths) walk(ctx context.Context, what, path string, limit time.Duration, walk func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("walking the tree took longer than %s, a retry continues", limit))
	defer cancel()
	return h.ask(ctx, what, path, func() error { return walk(ctx) })
}

// Exists returns nil when there is something at path, and makes a directory of mode 0755 when there is not, with the
// directories above it.
func (h *Paths) Exists(ctx context.Context, path string) error {
	return h.ask(ctx, "exists", path, func() error {
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = makeDirs(path)
		}
		return err
	})
}

// Directory returns nil when there is a directory at path, and makes it as Exists does when there is nothing.
func (h *Paths) Directory(ctx context.Context, path string) error {
	return h.ask(ctx, "directory", path, func() error { return makeDirs(path) })
}

// DirectoryBelow is Directory for the path rel below base, which exists. No symbolic link leads out of base.
func (h *Paths) DirectoryBelow(ctx context.Context, base, rel string) error {
	return h.ask(ctx, "below "+base, filepath.Join(base, rel), func() error {
		root, err := os.OpenRoot(base)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := makeBelow(root, rel); err != nil {
			return fmt.Errorf("make %s: %w", filepath.Join(base, rel), err)
		}
		return nil
	})
}

// ask runs look unless it is running already, and waits for its end or that of ctx.
func (h *Paths) ask(ctx context.Context, what, path string, look func() error) error {
	key := what + "\x00" + path
	h.mu.Lock()
	q := h.asked[key]
	if q == nil {
		q = &inquiry{began: time.Now(), done: make(chan struct{})}
		if h.asked == nil {
			h.asked = map[string]*inquiry{}
		}
		h.asked[key] = q
		go func() {
			q.err = blame(look())
			h.mu.Lock()
			delete(h.asked, key)
			h.mu.Unlock()
			close(q.done)
		}()
	}
	h.mu.Unlock()
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		return fmt.Errorf("stat %s: no answer for %s, its file system may hang: %w: %w",
			path, time.Since(q.began).Round(time.Millisecond), context.Cause(ctx), errdefs.ErrUnavailable)
	}
}

const hostDirMode = 0o755

// makeDirs makes a directory with those above it, all of mode 0755 whatever the umask is.
func makeDirs(path string) error {
	fi, err := os.Stat(path)
	if err == nil && !fi.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path = strings.TrimRight(path, "/")
	if above := path[:strings.LastIndexByte(path, '/')+1]; above != "" {
		if err := makeDirs(above); err != nil {
			return err
		}
	}
	err = os.Mkdir(path, hostDirMode)
	if errors.Is(err, fs.ErrExist) {
		return existingDir(path, err)
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, hostDirMode)
}

// existingDir says what is where a directory could not be made: one that was made meanwhile, or something that stat(2)
// does not see.
func existingDir(path string, cause error) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return nil
	}
	if to, err := os.Readlink(path); err == nil {
		return fmt.Errorf("%s is a symbolic link to %s, which does not exist: %w", path, to, syscall.ENOTDIR)
	}
	return cause
}

func makeBelow(root *os.Root, rel string) error {
	at := ""
	for part := range strings.SplitSeq(filepath.Clean(rel), "/") {
		at = filepath.Join(at, part)
		err := root.Mkdir(at, hostDirMode)
		if err == nil {
			err = root.Chmod(at, hostDirMode)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	fi, err := root.Stat(at)
	if err == nil && !fi.IsDir() {
		err = &fs.PathError{Op: "mkdir", Path: at, Err: syscall.ENOTDIR}
	}
	return err
}

// IsNotDirectory reports whether an error says that a part of a path is no directory.
func IsNotDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// blame gives an error its class: ErrInvalidArgument when the path is at fault, ErrFailedPrecondition when it is the
// file system.
func blame(err error) error {
	if err == nil || errdefs.IsUnavailable(err) {
		return err
	}
	for _, errno := range []syscall.Errno{syscall.ENOTDIR, syscall.EEXIST, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.ENOENT} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
}
