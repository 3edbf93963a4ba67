// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
	"github.com/cri-shim/cri-shim/pkg/sys/cgroup"
)

// killPatience bounds the wait for what KillAll kills; a process stuck in the
// kernel must not keep the exit back.
const killPatience = 10 * time.Second

// exited notes that the first process ended with status ws, while the kernel
// still has the status too. It does not block: the rest is finish's.
func (c *container) exited(ws unix.WaitStatus) { c.end(c.exitOf(ws)) }

func (c *container) exitOf(ws unix.WaitStatus) Exit {
	code, sig := exitCode(ws)
	return Exit{ID: c.rec.ID, Pid: c.rec.Pid, Code: code, Signal: sig, Time: time.Now()}
}

// lost is the exit nobody saw.
func (c *container) lost() Exit {
	return Exit{ID: c.rec.ID, Pid: c.rec.Pid, Code: 255, Time: time.Now(), Unknown: true}
}

// end writes e down for the next monitor and begins to finish. Only the first
// call counts.
func (c *container) end(e Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.orphan = true, false
	if err := writeJSON(filepath.Join(c.dir, exitName), &e); err != nil {
		c.m.log.Warn("exit not saved ahead", "container", c.rec.ID, "err", err)
	}
	go c.finish(e)
}

// finish gives out the exit: counters first, for the cgroup may go at any time;
// then the last output, so that the log is complete when the exit is known;
// then the exit log; then whoever listens.
func (c *container) finish(e Exit) {
	e.OOM = cgroup.OOMKills(c.rec.Cgroups) > c.rec.OOMBase || c.oomLogged(e)
	if c.rec.KillAll {
		ctx, cancel := context.WithTimeout(c.m.ctx, killPatience)
		if err := cgroup.Kill(ctx, c.rec.Cgroups); err != nil {
			c.m.log.Warn("container's processes not all killed", "container", c.rec.ID, "err", err)
		}
		cancel()
	}
	c.drain()
	if c.told != nil {
		<-c.told
	}
	// From the moment somebody knows of the exit the id may be launched anew: be gone by then.
	c.m.exits.append(e, func(e Exit) {
		c.release()
		c.m.store.forget(c.rec.ID)
		if err := os.RemoveAll(c.dir); err != nil {
			c.m.log.Warn("container directory not removed", "container", c.rec.ID, "err", err)
		}
		c.m.leave(c)
		c.m.publish(e)
	})
}

// drain waits until all output is in the log, for a bounded time: neither a
// client that reads slowly nor a log whose file system hangs keeps the exit back.
// What could not be written then is, should the file system answer.
func (c *container) drain() {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for _, st := range c.streams {
			st.finish()
			st.endSinks()
		}
		c.out.close()
	}()
	if within(drained, logPatience) {
		return
	}
	for _, st := range c.streams {
		st.endSinks()
	}
	if !within(drained, sinkPatience*time.Millisecond) {
		c.m.log.Error("container log not complete when its exit is told: does its file system hang?",
			"container", c.rec.ID, "path", c.rec.LogPath)
	}
}

// within waits for done, but no longer than d.
func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// oomLogged asks the kernel's log where systemd was faster than us with the
// removal of the cgroup, and its counters with it.
func (c *container) oomLogged(e Exit) bool {
	failed := e.Code != 0 || e.Signal != 0
	if !failed || len(c.rec.Cgroups) == 0 || slices.ContainsFunc(c.rec.Cgroups, cgroup.CountsOOMKills) {
		return false
	}
	oom, err := sys.LoggedOOMKill(sys.OOMVictim{Cgroups: c.rec.Cgroups, PID: c.rec.Pid, Start: c.rec.StartTime})
	if err != nil {
		c.m.log.Warn("nobody knows whether memory ran out", "container", c.rec.ID, "err", err)
	}
	return oom
}

// watchPidfd waits for the end of a process that is not our child.
func (c *container) watchPidfd() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.pidfd < 0 {
		return nil
	}
	w, err := c.m.poll.add(c.pidfd, func(uint32) { go c.foreignExit() })
	if err != nil {
		return err
	}
	c.watch = w
	w.arm(unix.EPOLLIN)
	return nil
}

// foreignExit finds out how a process ended that another one reaps: from its
// zombie while there is one, from the pidfd after that.
func (c *container) foreignExit() {
	c.mu.Lock()
	pid, start, fd := c.rec.Pid, c.rec.StartTime, c.pidfd
	if c.ended || fd < 0 {
		c.mu.Unlock()
		return
	}
	ended, reaped := sys.PidfdEnded(fd)
	status, known := zombieStatus(pid, start)
	if !known {
		status, known = sys.PidfdStatus(fd)
	}
	if !ended || !known && !reaped && c.stillThere() {
		c.watch.arm(unix.EPOLLIN * flag(!ended)) // ended but not reaped: the hang-up comes with the reap
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if known {
		c.exited(status)
		return
	}
	c.end(c.lost())
}

// zombieStatus returns the wait status of a process that has ended and was not
// reaped yet.
func zombieStatus(pid int, start uint64) (unix.WaitStatus, bool) {
	st, err := sys.ReadProcStat(pid)
	if err != nil || st.StartTime != start || st.State != 'Z' {
		return 0, false
	}
	return st.Status, true
}

// stillThere reports whether the container's process is in the process table.
func (c *container) stillThere() bool {
	st, err := sys.ReadProcStat(c.rec.Pid)
	return err == nil && st.StartTime == c.rec.StartTime
}
