// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// maxUsageDepth is how deep DiskUsage goes. The kernel keeps all directories above an open one in memory, about
	// 1.2 KB each, on our account.
	maxUsageDepth = 1 << 17
	// maxKnownLinks is how many files with several links are remembered, at about 40 bytes each.
	maxKnownLinks = 1 << 17

	ctxEvery = 1 << 8 // entries between looks at the context

	statBlock = 512 // bytes, the unit of stx_blocks whatever the filesystem's blocks are
)

// Usage is disk space: blocks in bytes, as du counts them, and inodes.
type Usage struct {
	Bytes, Inodes uint64
}

// DiskUsage measures a directory and what is below it, without mounts. A file with several links counts once. The tree
// may be an untrusted user's, of any depth and width, and may change meanwhile: what vanishes is left out, descriptors and memory
// are bounded. With an error it still returns what it counted, which is then too little: fs.ErrNotExist when there is
// no such directory, the context's error, or the first thing below it that could not be read. It tells sofar, which may
// be nil, every few hundred entries what it has counted.
func DiskUsage(ctx context.Context, path string, sofar func(Usage)) (Usage, error) {
	return diskUsage(ctx, path, &measure{sofar: sofar, knownLinks: maxKnownLinks})
}

func diskUsage(ctx context.Context, path string, m *measure) (Usage, error) {
	d, err := Descend(path)
	if err != nil {
		return Usage{}, fmt.Errorf("measure %s: %w", path, err)
	}
	defer d.Close()
	m.d, m.links = d, map[inode]struct{}{}
	m.countTop()
	if err := m.run(ctx); err != nil {
		return m.usage(), fmt.Errorf("measure %s: %w", path, err)
	}
	return m.usage(), nil
}

type inode struct{ dev, ino uint64 }

// measure is a DiskUsage under way.
type measure struct {
	sofar      func(Usage) // may be nil
	d          *Descent
	links      map[inode]struct{} // files with several links that are counted
	knownLinks int                // how many of them at most
	blocks     uint64
	inodes     uint64
	partial    [2]float64 // blocks and inodes of linked files beyond those
	first      error      // of what could not be read
}

func (m *measure) usage() Usage {
	return Usage{
		Bytes:  (m.blocks + uint64(math.Round(m.partial[0]))) * statBlock,
		Inodes: m.inodes + uint64(math.Round(m.partial[1])),
	}
}

func (m *measure) run(ctx context.Context) error {
	for seen := 0; m.d.Depth() > 0; seen++ {
		if seen%ctxEvery == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if m.sofar != nil {
				m.sofar(m.usage())
			}
		}
		e, ok, err := m.d.Read()
		m.note(err)
		if !ok {
			m.note(m.d.Leave())
			continue
		}
		m.visit(e)
	}
	return m.first
}

// visit counts one entry. A directory is entered before the kernel is asked about it: entering tells that something is
// mounted there, and a stat would wait for the server of the mount.
func (m *measure) visit(e Entry) {
	if e.Kind != unix.DT_DIR {
		st, ok := m.stat(m.d.FD(), e.Name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
		if !ok || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 { // Linux 5.8
			return
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			m.count(&st)
			return
		}
	}
	m.enter(e.Name)
}

func (m *measure) enter(name string) {
	if m.d.Depth() >= maxUsageDepth {
		m.note(fmt.Errorf("more than %d directories inside each other", maxUsageDepth))
		return
	}
	switch err := m.d.Enter(name); {
	case err == nil:
		m.countTop()
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
	default:
		m.note(os.NewSyscallError("open", err))
	}
}

// countTop counts the deepest directory.
func (m *measure) countTop() {
	if st, ok := m.stat(m.d.FD(), "", unix.AT_EMPTY_PATH); ok {
		m.blocks, m.inodes = m.blocks+st.Blocks, m.inodes+1
	}
}

func (m *measure) stat(dir int, name string, flags int) (st unix.Statx_t, ok bool) {
	err := unix.Statx(dir, name, flags, unix.STATX_BASIC_STATS, &st)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		m.note(os.NewSyscallError("statx", err))
	}
	return st, err == nil
}

func (m *measure) note(err error) {
	if m.first == nil {
		m.first = err
	}
}

// count adds one file that is no directory. The links of one that is not remembered count for their share each, which
// is exact in the end if all of them are in the tree.
func (m *measure) count(st *unix.Statx_t) {
	key := inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	if st.Nlink > 1 {
		if _, counted := m.links[key]; counted {
			return
		}
		if len(m.links) >= m.knownLinks {
			m.partial[0] += float64(st.Blocks) / float64(st.Nlink)
			m.partial[1] += 1 / float64(st.Nlink)
			return
		}
		m.links[key] = struct{}{}
	}
	m.blocks, m.inodes = m.blocks+st.Blocks, m.inodes+1
}
