// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// recover takes over what a dead monitor left: first the batches it was in the
// middle of, then its containers. One container that can't be taken over is
// logged and left alone; the node goes on.
func (m *Monitor) recover(left map[string]map[fdKind]int) error {
	defer m.store.forgetAll(left)
	entries, err := os.ReadDir(m.o.Dir)
	if err != nil {
		return fmt.Errorf("read monitor directory: %w", err)
	}
	var found []*container
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := m.load(e.Name())
		if err != nil {
			m.log.Error("container not taken over", "container", e.Name(), "err", err)
			continue
		}
		if c != nil {
			found = append(found, c)
		}
	}
	pending := m.pending(found)
	if err := m.journal.start(slices.Concat(slices.Collect(maps.Values(pending))...)...); err != nil {
		return err
	}
	for _, c := range found {
		c.out.begin(func() { c.recoverLog(pending[c.rec.ID]) })
		inherited := left[c.rec.ID]
		delete(left, c.rec.ID)
		if err := c.resume(inherited); err != nil {
			m.log.Error("container not taken over", "container", c.rec.ID, "err", err)
		}
	}
	return nil
}

// load reads one container's record. nil: nothing of it is left to take over.
func (m *Monitor) load(id string) (*container, error) {
	dir := filepath.Join(m.o.Dir, id)
	var rec record
	err := readJSON(filepath.Join(dir, recordName), &rec)
	if errors.Is(err, os.ErrNotExist) { // before the launch, or while it was removed
		return nil, os.RemoveAll(dir)
	}
	if err != nil {
		return nil, err
	}
	if rec.ID != id {
		return nil, fmt.Errorf("record of %q", rec.ID)
	}
	if rec.Pid != 0 && m.exits.has(id, rec.Pid) { // the dead monitor came as far as the exit log
		return nil, os.RemoveAll(dir)
	}
	c := &container{m: m, dir: dir, rec: rec, pidfd: -1, stdin: -1, tty: -1, orphan: true}
	c.out = m.newOutput(dir, &rec.Launch)
	return c, nil
}

// pending finds the batches that the dead monitor was in the middle of, by
// container.
func (m *Monitor) pending(found []*container) map[string][]*slot {
	pending := map[string][]*slot{}
	for _, s := range m.journal.pending() {
		b, _, ok := s.recovered()
		if ok && slices.ContainsFunc(found, func(c *container) bool { return c.rec.ID == b.id }) {
			pending[b.id] = append(pending[b.id], s)
		}
	}
	return pending
}

// recoverLog opens the log and brings it to where it would be had the dead
// monitor finished its batches, and the unfinished lines with it. The caller
// holds out.mu.
func (c *container) recoverLog(pending []*slot) {
	if err := c.out.log.open(); err != nil {
		c.m.log.Error("container log not opened, output is lost until it is reopened", "container", c.rec.ID, "err", err)
	}
	for _, s := range pending {
		b, content, _ := s.recovered()
		if err := c.out.finishBatch(b, content); err != nil {
			c.m.log.Error("container log may have lost a batch", "container", c.rec.ID, "err", err)
		}
		c.m.journal.giveBack(s)
	}
}

// finishBatch frames the batch again, which gives the bytes it gave before, and
// appends those that did not get into the file.
func (o *output) finishBatch(b batch, content []byte) error {
	if o.log.path == "" {
		return nil
	}
	name := "stdout"
	if b.stderr {
		name = "stderr"
	}
	lines, rest := reframe(b, content, name)
	log := &o.log
	if log.fd < 0 || b.logIno != log.ino || b.logDev != log.dev { // rotated meanwhile
		old, err := o.log.openAs(b.logDev, b.logIno)
		if err == nil {
			defer old.close()
			log = old
		}
	}
	if b.logIno == log.ino && b.logDev == log.dev {
		written := min(max(log.end-b.logEnd, 0), int64(len(lines)))
		lines = lines[written:]
	}
	log.write(lines)
	return o.tails.store(b.stderr, rest)
}

func reframe(b batch, content []byte, name string) (lines, rest []byte) {
	prefix := linePrefix(nil, b.at, name)
	if b.flush {
		return appendLine(nil, prefix, 'P', content), nil
	}
	buf := make([]byte, 0, readMax+maxLine+lineExtra)
	for {
		part, used, more := frame(buf[:0], content, prefix)
		lines = append(lines, part...)
		content = content[used:]
		if !more {
			return lines, content
		}
	}
}

// resume goes on with a recovered container; inherited are the descriptors that
// the image before this one had of it, or the service manager's store.
func (c *container) resume(inherited map[fdKind]int) error {
	defer func() {
		for _, fd := range inherited {
			unix.Close(fd)
		}
	}()
	if c.rec.Pid == 0 && !c.findLaunched() {
		c.m.log.Warn("launch was cut short, nothing runs", "container", c.rec.ID)
		c.discard()
		return nil
	}
	if err := c.openPipes(); err != nil {
		return err
	}
	if err := c.adoptInherited(inherited); err != nil {
		return err
	}
	if err := c.m.enter(c); err != nil {
		return err
	}
	var e Exit
	if readJSON(filepath.Join(c.dir, exitName), &e) == nil {
		c.end(e)
		return nil
	}
	if fd, ok := inherited[fdPidfd]; ok {
		delete(inherited, fdPidfd)
		c.pidfd = fd
	} else if err := c.reopenPidfd(); err != nil {
		return nil // it has ended: Adopt may tell how
	}
	if err := c.startStreams(); err != nil {
		return err
	}
	c.m.store.keep(c)
	if st, err := sys.ReadProcStat(c.rec.Pid); err == nil && st.PPID == os.Getpid() {
		c.orphan = false
		c.m.reap.await(c.rec.Pid, time.Time{}, c.exited)
		return nil
	}
	return c.watchPidfd()
}

// reopenPidfd opens the pidfd if the process is still the one on record.
func (c *container) reopenPidfd() error {
	fd, err := sys.PidfdOpen(c.rec.Pid)
	if err != nil {
		return err
	}
	// Look after opening: what the descriptor is for can't change any more.
	st, err := sys.ReadProcStat(c.rec.Pid)
	if err == nil && st.StartTime != c.rec.StartTime {
		err = unix.ESRCH
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("find process %d: %w", c.rec.Pid, err)
	}
	c.pidfd = fd
	return nil
}

// findLaunched completes the record of a launch during which the monitor died:
// the program may have gone on without it. The pid file is this launch's, because
// none was left when the record was made. But the process may have ended since
// and its number be another's: it is the container's only in the container's
// cgroup. Times prove nothing: the clock may have been set back.
func (c *container) findLaunched() bool {
	pid, err := readPid(c.rec.PidFile)
	if err != nil {
		return false
	}
	st, err := cgroup.MemberStat(pid, c.rec.Cgroups)
	if err != nil {
		c.m.log.Warn("pid file names no process of the container", "container", c.rec.ID, "path", c.rec.PidFile, "pid", pid, "err", err)
		return false
	}
	c.rec.Launched = Launched{Pid: pid, StartTime: st.StartTime}
	return c.save() == nil
}

// adoptInherited takes what can't be opened by path: the terminal, and the
// write end of a stdin pipe whose reader may be slow to come.
func (c *container) adoptInherited(inherited map[fdKind]int) error {
	if fd, ok := inherited[fdTTY]; ok && c.rec.Terminal {
		delete(inherited, fdTTY)
		if err := c.setTTY(fd); err != nil {
			unix.Close(fd)
			return err
		}
	}
	if fd, ok := inherited[fdStdin]; ok && c.stdin < 0 && !c.rec.StdinShut {
		delete(inherited, fdStdin)
		c.stdin = fd
	}
	return nil
}

// adopt takes what a client kept of a container: its terminal, and how it ended
// if nobody else knows. fds are the packet's.
func (m *Monitor) adopt(p *packet, fds []int) error {
	c, err := m.container(p.ID)
	if err != nil {
		closeFDs(fds)
		return err
	}
	err = c.adoptDescriptors(p, fds)
	c.mu.Lock()
	gone := c.orphan && !c.ended && c.pidfd < 0
	c.mu.Unlock()
	if gone && p.Status != nil {
		c.end(c.exitOf(unix.WaitStatus(*p.Status)))
	}
	return err
}

func (c *container) adoptDescriptors(p *packet, fds []int) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, kind := range p.FDs {
		if err != nil || kind != fdTTY || !c.rec.Terminal || c.tty >= 0 || c.ended {
			unix.Close(fds[i]) // the named pipes we have opened by path, and the rest helped by being held
			continue
		}
		if err = c.setTTY(fds[i]); err != nil {
			unix.Close(fds[i])
			continue
		}
		err = c.streams[0].start(c.m.poll)
	}
	return err
}

// giveUpOrphans ends those that are gone without anyone knowing how.
func (m *Monitor) giveUpOrphans() {
	m.mu.Lock()
	all := make([]*container, 0, len(m.containers))
	for _, c := range m.containers {
		all = append(all, c)
	}
	m.mu.Unlock()
	for _, c := range all {
		c.mu.Lock()
		gone := c.orphan && !c.ended && c.pidfd < 0
		c.mu.Unlock()
		if gone {
			c.end(c.lost())
		}
	}
}
