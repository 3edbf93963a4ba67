// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// Recover takes over what a dead monitor left: first the batches it was in the
// middle of, then its containers. One container that can't be taken over is
// logged and left alone; the node goes on. What is left besides is forgotten, but
// not on error: it is for the monitor that tries again.
func (s *Set) Recover(left map[string]map[wire.FDKind]int) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("read monitor directory: %w", err)
	}
	var found []*Container
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := s.load(e.Name())
		if err != nil {
			s.Log.Error("container not taken over", "container", e.Name(), "err", err)
			continue
		}
		if c != nil {
			found = append(found, c)
		}
	}
	pending, err := s.Journal.Recover(func(id string) bool {
		return slices.ContainsFunc(found, func(c *Container) bool { return c.rec.ID == id })
	})
	if err != nil {
		return err
	}
	for _, c := range found {
		c.out.Recover(pending[c.rec.ID])
		inherited := left[c.rec.ID]
		delete(left, c.rec.ID)
		if err := c.resume(inherited); err != nil {
			s.Log.Error("container not taken over", "container", c.rec.ID, "err", err)
		}
	}
	s.Store.ForgetAll(left)
	return nil
}

// load reads one container's record. nil: nothing of it is left to take over.
func (s *Set) load(id string) (*Container, error) {
	dir := filepath.Join(s.Dir, id)
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
	if rec.Pid != 0 && s.Exits.Has(id, rec.Pid) { // the dead monitor came as far as the exit log
		return nil, os.RemoveAll(dir)
	}
	c := &Container{set: s, dir: dir, rec: rec, pidfd: -1, stdin: -1, tty: -1, orphan: true}
	c.out = s.newOutput(dir, &rec.Launch)
	return c, nil
}

// resume goes on with a recovered container; inherited are the descriptors that
// the image before this one had of it, or the service manager's store.
func (c *Container) resume(inherited map[wire.FDKind]int) error {
	defer func() {
		for _, fd := range inherited {
			unix.Close(fd)
		}
	}()
	if c.rec.Pid == 0 && !c.findLaunched() {
		c.set.Log.Warn("launch was interrupted, no process runs", "container", c.rec.ID)
		c.discard()
		return nil
	}
	if err := c.openPipes(); err != nil {
		return err
	}
	if err := c.adoptInherited(inherited); err != nil {
		return err
	}
	if c.rec.Stdio && c.rec.Terminal && c.tty < 0 {
		c.adopted = make(chan struct{})
	}
	if err := c.set.enter(c); err != nil {
		return err
	}
	var e wire.Exit
	if readJSON(filepath.Join(c.dir, exitName), &e) == nil {
		c.end(e)
		return nil
	}
	if fd, ok := inherited[wire.Pidfd]; ok {
		delete(inherited, wire.Pidfd)
		c.pidfd = fd
	} else if err := c.reopenPidfd(); err != nil {
		return nil // it has ended: Adopt may tell how
	}
	if err := c.out.Start(c.set.Poller); err != nil {
		return err
	}
	c.store()
	if st, err := sys.ReadProcStat(c.rec.Pid); err == nil && st.PPID == os.Getpid() {
		c.orphan = false
		c.set.Reaper.Await(c.rec.Pid, time.Time{}, c.exited)
		return nil
	}
	return c.awaitForeign()
}

// reopenPidfd opens the pidfd if the process is still the one on record.
func (c *Container) reopenPidfd() error {
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
func (c *Container) findLaunched() bool {
	pid, err := child.ReadPID(c.rec.PidFile)
	if err != nil {
		return false
	}
	st, err := cgroup.MemberStat(pid, c.rec.Cgroups)
	if err != nil {
		c.set.Log.Warn("pid file names no process of the container", "container", c.rec.ID, "path", c.rec.PidFile, "pid", pid, "err", err)
		return false
	}
	c.rec.Launched = wire.Launched{Pid: pid, StartTime: st.StartTime}
	return c.save() == nil
}

// adoptInherited takes what can't be opened by path: the terminal, and the
// write end of a stdin pipe whose reader may be slow to come.
func (c *Container) adoptInherited(inherited map[wire.FDKind]int) error {
	if fd, ok := inherited[wire.TTY]; ok && c.rec.Terminal {
		delete(inherited, wire.TTY)
		c.mu.Lock()
		err := c.setTTY(fd)
		c.mu.Unlock()
		if err != nil {
			unix.Close(fd)
			return err
		}
	}
	if fd, ok := inherited[wire.Stdin]; ok && c.stdin < 0 && !c.rec.StdinShut {
		delete(inherited, wire.Stdin)
		c.stdin = fd
	}
	return nil
}

// Adopt takes what a client kept of a container: its terminal, and how it ended
// if nothing else tells. fds are the packet's.
func (s *Set) Adopt(p *wire.Packet, fds []int) error {
	c, err := s.Get(p.ID)
	if err != nil {
		wire.CloseFDs(fds)
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

func (c *Container) adoptDescriptors(p *wire.Packet, fds []int) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, kind := range p.FDs {
		if err != nil || kind != wire.TTY || c.adopted == nil || c.tty >= 0 {
			unix.Close(fds[i]) // the named pipes we have opened by path, and the rest helped by being held
			continue
		}
		if err = c.setTTY(fds[i]); err != nil {
			unix.Close(fds[i])
			continue
		}
		err = c.out.Start(c.set.Poller)
	}
	c.endAdoption()
	return err
}

// endAdoption says that no terminal will be handed over any more. The caller holds
// mu.
func (c *Container) endAdoption() {
	if c.adopted != nil {
		close(c.adopted)
		c.adopted = nil
	}
}

// GiveUpOrphans ends those that are gone without anyone knowing how. Those whose
// terminal nobody kept go on without.
func (s *Set) GiveUpOrphans() {
	for _, c := range s.All() {
		c.mu.Lock()
		gone := c.orphan && !c.ended && c.pidfd < 0
		c.endAdoption()
		c.mu.Unlock()
		if gone {
			c.end(c.lost())
		}
	}
}
