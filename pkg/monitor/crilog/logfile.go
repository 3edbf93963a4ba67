// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// logFile is a container's CRI log. This process is the only one that writes
// it, so end is known without asking. A file that can't be written loses what
// it is given, with a count, and never stops the container. Not safe for
// concurrent use.
type logFile struct {
	path     string // "": output is thrown away
	dir      string // below it no symbolic link is followed; "": not known, a client before this field
	fd       int    // -1: not open
	end      int64  // bytes in the file
	ino, dev uint64
	failing  bool
	lost     int64 // bytes of framed output lost since failing began
	log      *slog.Logger
}

// logFlags open without waiting for the reader of a FIFO or for a device.
const logFlags = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NOFOLLOW | unix.O_NONBLOCK

// open opens the file at path for appending; "" is fine. Anything but a regular
// file is refused: it could hold up or swallow what is written.
func (l *logFile) open() error {
	l.fd = -1
	if l.path == "" {
		return nil
	}
	fd, err := l.openPath(logFlags)
	if err != nil {
		return fmt.Errorf("open log %s: %w", l.path, blame(err))
	}
	l.fd = fd
	if err := l.measure(); err != nil {
		l.close()
		return err
	}
	return nil
}

// openPath follows no symbolic link below the pod's log directory: a container
// that has the directory as a volume could lead us to any file of the node.
func (l *logFile) openPath(flags int) (int, error) {
	const mode = 0o640
	if l.dir == "" {
		return unix.Open(l.path, flags, mode)
	}
	return sys.OpenBelow(l.dir, l.path, flags, mode)
}

// blame gives an error of open(2) its class: what stands at the path is somebody
// else's to put right, unless it is this process that lacks descriptors.
func blame(err error) error {
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
		return wire.ResourceExhausted(err)
	}
	return wire.FailedPrecondition(err)
}

func (l *logFile) measure() error {
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		return fmt.Errorf("stat log %s: %w", l.path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return wire.FailedPrecondition(fmt.Errorf("open log %s: not a regular file", l.path))
	}
	l.end, l.ino, l.dev = st.Size, st.Ino, st.Dev
	return nil
}

// reopen goes on in a new file at path; on error it goes on in the old one.
func (l *logFile) reopen() error {
	next := logFile{path: l.path, dir: l.dir, log: l.log}
	if err := next.open(); err != nil {
		return err
	}
	l.close()
	l.fd, l.end, l.ino, l.dev = next.fd, next.end, next.ino, next.dev
	return nil
}

func (l *logFile) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
	l.fd = -1
}

// write appends whole log lines.
func (l *logFile) write(lines []byte) {
	if l.fd < 0 {
		return
	}
	for done := 0; done < len(lines); {
		n, err := unix.Write(l.fd, lines[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			l.fail(lines, done, err)
			return
		}
		done += n
	}
	l.end += int64(len(lines))
	if l.failing {
		l.failing = false
		l.log.Warn("container log writable again", "path", l.path, "lost_bytes", l.lost)
		l.lost = 0
	}
}

// fail cuts a torn line off, so that what can be written later starts a line.
func (l *logFile) fail(lines []byte, done int, err error) {
	keep := bytes.LastIndexByte(lines[:done], '\n') + 1
	if keep != done {
		_ = unix.Ftruncate(l.fd, l.end+int64(keep)) // best effort: the alternative is a torn line
	}
	_ = l.measure()
	l.lost += int64(len(lines) - keep)
	if !l.failing {
		l.failing = true
		l.log.Error("container log not writable, its output is lost until it is", "path", l.path, "err", err)
	}
}

// openAs opens the file with the given identity, wherever rotation has put it
// in the log's directory, for finishing a batch of a killed monitor.
func (l *logFile) openAs(dev, ino uint64) (*logFile, error) {
	paths := []string{l.path}
	entries, err := os.ReadDir(filepath.Dir(l.path))
	if err != nil {
		return nil, fmt.Errorf("look for log: %w", err)
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(filepath.Dir(l.path), e.Name()))
	}
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Lstat(p, &st) != nil || st.Ino != ino || st.Dev != dev {
			continue
		}
		old := &logFile{path: p, dir: l.dir, log: l.log}
		if err := old.open(); err != nil {
			return nil, err
		}
		return old, nil
	}
	return nil, os.ErrNotExist
}
