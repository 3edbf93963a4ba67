// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyChunk is how many bytes are copied between two looks at the context.
const copyChunk = 16 << 20

// Copy copies what is at from, a directory or anything else, to the path to, which must not exist: owners, modes,
// times, extended attributes but for SELinux's, hard links within, holes, and special files. Symbolic links are copied
// and not followed. Of the directories that empty holds, by their paths below from, nothing but they themselves is
// copied. The tree may be of any depth and width: descriptors and memory are bounded. What was copied when an error
// came, or ctx ended, stays. from must not change meanwhile, and nothing may be mounted in it.
func Copy(ctx context.Context, from, to string, empty map[string]bool) (err error) {
	c := &copier{ctx: ctx, linksNear: filepath.Dir(to), at: []*branch{grow(empty)}}
	defer func() { err = errors.Join(err, c.close()) }()
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = c.copyBelow(from, to)
	} else {
		err = c.copyFile(from, to, &st)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, c.explain(err))
	}
	return nil
}

// copier is a Copy under way: both trees at the same place.
type copier struct {
	ctx       context.Context //nolint:containedctx // lives as long as the call
	from, to  *Descent
	at        []*branch // of each level: what the caller wants to be empty below it
	linksNear string    // where the directory for links is made
	links     string    // once there are some: each file with several links under its number, so that memory is bounded
}

// branch is a directory with others somewhere below it that are to be empty.
type branch struct {
	empty bool
	below map[string]*branch
}

func grow(paths map[string]bool) *branch {
	root := &branch{}
	for path := range paths {
		at := root
		for name := range strings.SplitSeq(path, "/") {
			if at.below == nil {
				at.below = map[string]*branch{}
			}
			if at.below[name] == nil {
				at.below[name] = &branch{}
			}
			at = at.below[name]
		}
		at.empty = true
	}
	return root
}

func (b *branch) step(name string) *branch {
	if b == nil {
		return nil
	}
	return b.below[name]
}

func (c *copier) close() error {
	for _, d := range []*Descent{c.from, c.to} {
		if d != nil {
			d.Close()
		}
	}
	if c.links == "" {
		return nil
	}
	return Remove(context.WithoutCancel(c.ctx), c.links)
}

// copyBelow copies a directory.
func (c *copier) copyBelow(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	var err error
	if c.from, err = Descend(from); err != nil {
		return err
	}
	if c.to, err = Descend(to); err != nil {
		return err
	}
	for c.from.Depth() > 0 {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		if err := c.next(); err != nil {
			return err
		}
	}
	return nil
}

// next copies one entry, or ends a directory.
func (c *copier) next() error {
	e, ok, err := c.from.Read()
	if err != nil {
		return err
	}
	if !ok {
		return c.leave()
	}
	var st unix.Stat_t
	if err := unix.Fstatat(c.from.FD(), e.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat "+strconv.Quote(e.Name), err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.enter(e.Name)
	}
	return c.copyFile(pathAt(c.from, e.Name), pathAt(c.to, e.Name), &st)
}

// pathAt is a path of a file in the deepest directory, however deep that is.
func pathAt(d *Descent, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.FD()) + "/" + name
}

func (c *copier) enter(name string) error {
	err := unix.Mkdirat(c.to.FD(), name, 0o700)
	if err == nil {
		err = c.from.Enter(name)
	}
	if err == nil {
		err = c.to.Enter(name)
	}
	if err != nil {
		return os.NewSyscallError("copy directory "+strconv.Quote(name), err)
	}
	b := c.at[len(c.at)-1].step(name)
	c.at = append(c.at, b)
	if b != nil && b.empty {
		return c.leave()
	}
	return nil
}

// leave ends a directory with its attributes: what is put into it changes its times, and needs its write permission.
func (c *copier) leave() error {
	var st unix.Stat_t
	if err := unix.Fstat(c.from.FD(), &st); err != nil {
		return err
	}
	if err := copyAttributes(pathAt(c.from, "."), pathAt(c.to, "."), &st); err != nil {
		return err
	}
	c.at = c.at[:len(c.at)-1]
	if err := c.from.Leave(); err != nil {
		return err
	}
	return c.to.Leave()
}

// explain says how deep it was, and leaves out paths that mean nothing to a reader.
func (c *copier) explain(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && strings.HasPrefix(path.Path, "/proc/self/fd/") {
		err = fmt.Errorf("%s %q: %w", path.Op, filepath.Base(path.Path), path.Err)
	}
	if c.from != nil && c.from.Depth() > 1 {
		return fmt.Errorf("%d directories down: %w", c.from.Depth()-1, err)
	}
	return err
}

// copyFile copies anything but a directory, or links it to the copy that is there.
func (c *copier) copyFile(from, to string, st *unix.Stat_t) error {
	if st.Nlink < 2 || c.from == nil {
		return copyOne(c.ctx, from, to, st)
	}
	if c.links == "" {
		var err error
		if c.links, err = os.MkdirTemp(c.linksNear, ".links-"); err != nil {
			return err
		}
	}
	first := filepath.Join(c.links, fmt.Sprintf("%x-%x", st.Dev, st.Ino))
	err := unix.Link(first, to)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EMLINK) {
		return os.NewSyscallError("link", err)
	}
	if err := copyOne(c.ctx, from, to, st); err != nil {
		return err
	}
	if errors.Is(err, unix.EMLINK) { // as many as the filesystem allows: the others are links to the next copy
		if err := unix.Unlink(first); err != nil {
			return os.NewSyscallError("unlink", err)
		}
	}
	return os.NewSyscallError("link", unix.Link(to, first))
}

func copyOne(ctx context.Context, from, to string, st *unix.Stat_t) (err error) {
	switch kind := st.Mode & unix.S_IFMT; kind {
	case unix.S_IFREG:
		err = copyContent(ctx, from, to, st.Size)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = unix.Symlink(target, to)
		}
	default:
		err = unix.Mknod(to, kind|0o600, int(st.Rdev)) //nolint:gosec // rdev of amd64 and arm64 fits
	}
	if err != nil {
		return err
	}
	return copyAttributes(from, to, st)
}

// copyContent copies the parts of a file that are no holes.
func copyContent(ctx context.Context, from, to string, size int64) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for at := int64(0); at < size; {
		begin, end, err := nextData(in, at, size)
		if err != nil || begin >= size {
			return errors.Join(err, out.Truncate(size))
		}
		if err := copyRange(ctx, in, out, begin, end); err != nil {
			return err
		}
		at = end
	}
	return out.Truncate(size)
}

// nextData finds the next part with data at or after at; begin is size when there is none.
func nextData(f *os.File, at, size int64) (begin, end int64, err error) {
	begin, err = f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return at, size, nil // a file system that knows no holes
	}
	if err == nil {
		end, err = f.Seek(begin, unix.SEEK_HOLE)
	}
	return begin, end, err
}

func copyRange(ctx context.Context, in, out *os.File, begin, end int64) error {
	if _, err := in.Seek(begin, io.SeekStart); err != nil {
		return err
	}
	if _, err := out.Seek(begin, io.SeekStart); err != nil {
		return err
	}
	for left := end - begin; left > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, min(left, copyChunk))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// copyAttributes gives to what st says, and the extended attributes of from.
func copyAttributes(from, to string, st *unix.Stat_t) error {
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil { // after the owner, who takes set-id bits away
			return err
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func copyXattrs(from, to string) error {
	names, err := readXattr(func(buf []byte) (int, error) { return unix.Llistxattr(from, buf) })
	if err != nil {
		return ignoreUnsupported(err)
	}
	for name := range bytes.SplitSeq(bytes.TrimRight(names, "\x00"), []byte{0}) {
		name := string(name)
		if name == "" || name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value, err := readXattr(func(buf []byte) (int, error) { return unix.Lgetxattr(from, name, buf) })
		if err == nil {
			err = unix.Lsetxattr(to, name, value, 0)
		}
		if err := ignoreUnsupported(err); err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

// readXattr reads what may be as long as the kernel lets it be.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	n, err := read(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = read(buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENODATA) {
		return nil
	}
	return err
}
