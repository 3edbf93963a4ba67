// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

const (
	// heldLevels is how many levels of a tree are kept open, counted from its root. Of the deeper ones only the
	// deepest is: the way back up from there is "..".
	heldLevels = 64

	firstRead = 4 << 10 // bytes of a directory; the rest of what was read is lost when a subdirectory is entered
	laterRead = 32 << 10
)

// errMoved says that a directory was moved while it was open, so that its ".." is not the one that it was entered from.
var errMoved = errors.New("a directory was moved during the walk")

// Descent is a place in a directory tree of any depth and width, made by untrusted users. It holds at most
// heldLevels+1 descriptors and 40 bytes per level, knows no paths, follows no symlink and enters no mount.
type Descent struct {
	levels []level
	buf    []byte
	rest   []byte // what is read of the deepest level and not returned yet
	next   int    // bytes to read at once
}

type level struct {
	fd       int // -1 while closed
	dev, ino uint64
	off      int64 // where to read on
}

// Entry is one name in a directory.
type Entry struct {
	Name   string
	ino    uint64 // as the directory has it; the inode itself may say another on overlayfs and at mounts
	Kind   byte   // unix.DT_…, also DT_UNKNOWN
	before int64  // the place of the entry itself, to read it again
}

// Descend starts at a directory, by a path that is ours to trust but for its last element.
func Descend(path string) (*Descent, error) {
	fd, err := sys.Retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return newDescent(fd)
}

// newDescent starts at a directory, which it owns from now on.
func newDescent(fd int) (*Descent, error) {
	d := &Descent{buf: make([]byte, laterRead)}
	return d, d.push(fd)
}

// Close lets go of the directories that are open.
func (d *Descent) Close() {
	for _, l := range d.levels {
		if l.fd >= 0 {
			unix.Close(l.fd)
		}
	}
	d.levels = nil
}

// Depth is how many levels deep the place is: 1 at the root, 0 once that was left.
func (d *Descent) Depth() int { return len(d.levels) }

// FD is the descriptor of the deepest directory, which stays ours.
func (d *Descent) FD() int { return d.top().fd }

func (d *Descent) top() *level { return &d.levels[len(d.levels)-1] }

func (d *Descent) seek(off int64) {
	d.top().off, d.rest, d.next = off, nil, firstRead
}

// Read returns the next entry of the deepest level; false at its end, which a directory that is gone has as well.
func (d *Descent) Read() (Entry, bool, error) {
	for {
		if len(d.rest) == 0 {
			n, err := d.fill()
			if n == 0 || err != nil {
				return Entry{}, false, err
			}
		}
		if e, ok := d.parse(); ok {
			return e, true, nil
		}
	}
}

func (d *Descent) fill() (int, error) {
	l := d.top()
	_, err := unix.Seek(l.fd, l.off, unix.SEEK_SET)
	if errors.Is(err, unix.EINVAL) { // ext4: the directory is gone, or was emptied to below this place
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("lseek", err)
	}
	n, err := sys.Retry(func() (int, error) { return unix.Getdents(l.fd, d.buf[:d.next]) })
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("getdents", err)
	}
	d.rest, d.next = d.buf[:n], laterRead
	return n, nil
}

// parse takes one struct linux_dirent64 (getdents(2)) off what is read; false for names that are none of the tree's.
func (d *Descent) parse() (Entry, bool) {
	const inoAt, offAt, lenAt, kindAt, nameAt = 0, 8, 16, 18, 19
	size := int(binary.NativeEndian.Uint16(d.rest[lenAt:]))
	raw := d.rest[:size]
	d.rest = d.rest[size:]
	l := d.top()
	e := Entry{ino: binary.NativeEndian.Uint64(raw[inoAt:]), Kind: raw[kindAt], before: l.off}
	l.off = int64(binary.NativeEndian.Uint64(raw[offAt:])) //nolint:gosec // the kernel's loff_t
	e.Name = unix.ByteSliceToString(raw[nameAt:])
	return e, e.Name != "." && e.Name != ".."
}

// Enter goes one level down. Errors: ENOENT, ENOTDIR or ELOOP for what is no directory any more, EXDEV for a mount.
func (d *Descent) Enter(name string) error {
	fd, err := openDirAt(d.FD(), name)
	if err != nil {
		return err
	}
	if above := len(d.levels) - 1; above >= heldLevels {
		unix.Close(d.levels[above].fd)
		d.levels[above].fd = -1
	}
	return d.push(fd)
}

func (d *Descent) push(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	d.levels = append(d.levels, level{fd: fd, dev: st.Dev, ino: st.Ino})
	d.seek(0)
	return nil
}

// Leave goes back to the level above, or past the root. With errMoved the way is lost and it is the deepest level that
// was kept open.
func (d *Descent) Leave() error {
	last := len(d.levels) - 1
	var err error
	if last > 0 && d.levels[last-1].fd < 0 {
		err = d.reopen(last - 1)
	}
	unix.Close(d.levels[last].fd)
	if err != nil {
		last = heldLevels
	}
	d.levels = d.levels[:last]
	if last > 0 {
		d.seek(d.top().off)
	}
	return err
}

// reopen opens a level from the one below it.
func (d *Descent) reopen(at int) error {
	fd, err := openDirAt(d.levels[at+1].fd, "..")
	if err != nil {
		return errMoved
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != d.levels[at].ino || st.Dev != d.levels[at].dev {
		unix.Close(fd)
		return errMoved
	}
	d.levels[at].fd = fd
	return nil
}

// openDirAt opens a directory of the same mount, without following a symlink (openat2, Linux 5.6).
func openDirAt(dir int, name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := sys.Retry(func() (int, error) { return unix.Openat2(dir, name, &how) })
		// EAGAIN: something was renamed while ".." was looked up, which the kernel can't tell from a way out.
		if !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}
