// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
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

// killPatience bounds the wait for what KillAll kills; a process stuck in the
// kernel must not keep the exit back.
const killPatience = 10 * time.Second

// exited notes that the first process ended with status ws, while the kernel
// still has the status too. It does not block: the rest is finish's.
func (c *Container) exited(ws unix.WaitStatus) { c.end(c.exitOf(ws)) }

func (c *Container) exitOf(ws unix.WaitStatus) wire.Exit {
	if c.standsFor() {
		return c.waited(ws)
	}
	code, sig := child.ExitCode(ws)
	return wire.Exit{ID: c.rec.ID, Pid: c.rec.Pid, Code: code, Signal: sig, Time: time.Now()}
}

// lost is the exit of a process that no monitor watched.
func (c *Container) lost() wire.Exit {
	e := wire.Exit{ID: c.rec.ID, Pid: c.rec.Pid, Code: 255, Time: time.Now(), Unknown: true}
	if code, err := c.readStatus(); c.standsFor() && err == nil {
		e.Code, e.Unknown = code, false
	}
	return e
}

// end writes e down for the next monitor and begins to finish. Only the first
// call counts.
func (c *Container) end(e wire.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.orphan = true, false
	if err := writeJSON(filepath.Join(c.dir, exitName), &e); err != nil {
		c.set.Log.Warn("exit record not written before the reap: should the monitor crash now, the exit code is lost", "container", c.rec.ID, "err", err)
	}
	go c.finish(e, c.adopted)
}

// finish gives out the exit: counters first, for the cgroup may go at any time;
// then the last output, so that the log is complete when the exit is known;
// then the exit log; then the subscribers.
func (c *Container) finish(e wire.Exit, adopted <-chan struct{}) {
	e.OOM = cgroup.OOMKills(c.rec.Cgroups) > c.rec.OOMBase || c.oomLogged(e)
	if c.rec.KillAll {
		ctx, cancel := context.WithTimeout(c.set.Life, killPatience)
		if err := cgroup.Kill(ctx, c.rec.Cgroups); err != nil {
			c.set.Log.Warn("container's processes not all killed", "container", c.rec.ID, "err", err)
		}
		cancel()
	}
	if adopted != nil {
		<-adopted
	}
	c.out.Finish()
	if c.told != nil {
		<-c.told
	}
	// Once the exit is reported the id may be launched again, so the container must be gone before.
	c.set.Exits.Append(e, func(e wire.Exit) {
		c.release()
		c.set.Store.Forget(c.rec.ID)
		if err := os.RemoveAll(c.dir); err != nil {
			c.set.Log.Warn("container directory not removed", "container", c.rec.ID, "err", err)
		}
		c.set.leave(c)
		c.set.Tell(&wire.Packet{Op: wire.OpExit, Exit: &e})
	})
}

// oomLogged asks the kernel's log where systemd was faster than us with the
// removal of the cgroup, and its counters with it.
func (c *Container) oomLogged(e wire.Exit) bool {
	failed := e.Code != 0 || e.Signal != 0
	if !failed || len(c.rec.Cgroups) == 0 || slices.ContainsFunc(c.rec.Cgroups, cgroup.CountsOOMKills) {
		return false
	}
	oom, err := sys.LoggedOOMKill(sys.OOMVictim{Cgroups: c.rec.Cgroups, PID: c.rec.Pid, Start: c.rec.StartTime})
	if err != nil {
		c.set.Log.Warn("cannot tell whether the container was OOM-killed", "container", c.rec.ID, "err", err)
	}
	return oom
}

// awaitForeign waits for the end of a process that is not our child.
func (c *Container) awaitForeign() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.pidfd < 0 {
		return nil
	}
	r, err := c.set.Poller.Add(c.pidfd, func(uint32) { go c.foreignExit() })
	if err != nil {
		return err
	}
	c.foreign = r
	r.Arm(unix.EPOLLIN)
	return nil
}

// foreignExit finds out how a process ended that another one reaps.
func (c *Container) foreignExit() {
	c.mu.Lock()
	pid, start, fd := c.rec.Pid, c.rec.StartTime, c.pidfd
	if c.ended || fd < 0 {
		c.mu.Unlock()
		return
	}
	ended, reaped := sys.PidfdEnded(fd)
	status, known := sys.ForeignStatus(fd, pid, start)
	if !ended || !known && !reaped && c.stillThere() {
		events := uint32(0) // ended but not reaped: the hang-up comes with the reap
		if !ended {
			events = unix.EPOLLIN
		}
		c.foreign.Arm(events)
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

// stillThere reports whether the container's process is in the process table.
func (c *Container) stillThere() bool {
	st, err := sys.ReadProcStat(c.rec.Pid)
	return err == nil && st.StartTime == c.rec.StartTime
}
