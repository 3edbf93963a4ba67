// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyChunk is how many bytes are copied between two looks at the context.
const copyChunk = 16 << 20

// CopyTree copies what is at from, a directory or anything else, to the path to, which must not exist: owners, modes,
// times, extended attributes but for SELinux's, hard links within, holes, and special files. Symbolic links are copied
// and not followed. Of the directories that empty holds, by their paths below from, nothing but they themselves is
// copied. What was copied when an error came, or ctx ended, stays. Nobody may change from meanwhile.
func CopyTree(ctx context.Context, from, to string, empty map[string]bool) error {
	c := copier{linked: map[inode]string{}}
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if err := c.copy(ctx, path, filepath.Join(to, rel)); err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		if e.IsDir() && empty[rel] {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Children change the times of their directory, and need its write permission.
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if err := copyAttributes(c.dirs[i].from, c.dirs[i].to, &c.dirs[i].st); err != nil {
			return fmt.Errorf("copy %s: %w", c.dirs[i].from, err)
		}
	}
	return nil
}

type copier struct {
	linked map[inode]string // first copy of a file with several links
	dirs   []copiedDir      // whose attributes come last
}

type inode struct{ dev, ino uint64 }

type copiedDir struct {
	from, to string
	st       unix.Stat_t
}

// copy copies one file, or an empty directory.
func (c *copier) copy(ctx context.Context, from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		c.dirs = append(c.dirs, copiedDir{from, to, st})
		return os.Mkdir(to, 0o700)
	}
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, again := c.linked[id]; again {
			return os.Link(first, to)
		}
		c.linked[id] = to
	}
	var err error
	switch kind {
	case unix.S_IFREG:
		err = copyContent(ctx, from, to, st.Size)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	default:
		err = unix.Mknod(to, kind|0o600, int(st.Rdev)) //nolint:gosec // rdev of amd64 and arm64 fits
	}
	if err != nil {
		return err
	}
	return copyAttributes(from, to, &st)
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
