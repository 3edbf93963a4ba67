// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor/child"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

const maxID = 128 // bytes; what the journal has room for

// Launch starts a container, and returns when the program that starts it has
// exited; Answered follows. Its directory and record come first, so that a
// monitor that dies in here leaves a successor enough to go on from.
func (s *Set) Launch(ctx context.Context, l *wire.Launch) (*Container, error) {
	if err := validID(l.ID); err != nil {
		return nil, err
	}
	c := s.newContainer(l)
	ctx, c.cut = context.WithCancel(ctx)
	defer c.cut()
	if err := s.enter(c); err != nil {
		c.out.Close()
		return nil, err
	}
	defer close(c.launched)
	defer s.Reaper.Expect()()
	if err := c.start(ctx, l); err != nil {
		c.discard() // before leave: from then on the id, and with it the directory, may be another launch's
		s.leave(c)
		return nil, fmt.Errorf("launch %s: %w", l.ID, err)
	}
	return c, nil
}

// Launching tells whether the container's launch is not over yet.
func (c *Container) Launching() bool {
	if c.launched == nil {
		return false
	}
	select {
	case <-c.launched:
		return false
	default:
		return true
	}
}

// start does the work: prepare, run the program, take over what it started.
func (c *Container) start(ctx context.Context, l *wire.Launch) error {
	if (l.PidFile == "") == (len(l.Wait) == 0) {
		return wire.InvalidArgument(errors.New("launch: it must name either a pid file or a program that waits"))
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make container directory: %w", err)
	}
	// Before the record is there: the next monitor takes a pid file beside a record for this launch's.
	if err := os.Remove(l.PidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pid file of an earlier launch: %w", err)
	}
	if err := errors.Join(c.makePipes(), c.save(), c.out.Open(ctx)); err != nil {
		return err
	}
	stdio, err := c.openStdio()
	if err != nil {
		return err
	}
	defer stdio.close()
	if err := c.openPipes(); err != nil {
		return err
	}
	p := &child.Program{Argv: l.Argv, Env: l.Env, Dir: l.Dir, PidFile: l.PidFile, Files: stdio.files}
	if stdio.console != nil {
		p.Argv = stdio.console.Fill(l.Argv)
	}
	started, err := c.execute(ctx, p)
	if err != nil {
		if failed, ok := errors.AsType[*wire.LaunchError](err); ok && failed.Stderr == "" {
			failed.Stderr = c.errorText(stdio)
		}
		return err
	}
	if stdio.console != nil {
		master, err := stdio.console.Receive()
		if err != nil {
			c.set.Reaper.Kill(started)
			return err
		}
		c.mu.Lock()
		err = c.setTTY(master)
		c.mu.Unlock()
		if err != nil {
			unix.Close(master)
			c.set.Reaper.Kill(started)
			return err
		}
	}
	return c.takeOver(started)
}

// takeOver begins to parent the started process: from here on its exit is on
// record whatever happens.
func (c *Container) takeOver(started child.Process) error {
	c.mu.Lock()
	c.rec.Launched = wire.Launched{Pid: started.PID}
	c.pidfd = c.set.Reaper.Pidfd(started)
	ours := c.set.Reaper.Child(started)
	unseen := !ours && c.pidfd < 0 // the program has waited for it itself
	if st, err := sys.ReadProcStat(started.PID); err == nil && c.pidfd >= 0 {
		c.rec.StartTime = st.StartTime
	}
	err := c.save()
	if err == nil {
		err = c.out.Start(c.set.Poller)
	}
	c.mu.Unlock()
	if err != nil {
		c.set.Reaper.Kill(started)
		return err
	}
	c.store()
	if unseen {
		c.end(c.lost())
		return nil
	}
	forget := c.set.Reaper.Await(started.PID, started.Since, c.exited)
	if ours {
		return nil
	}
	// A runtime of two processes, as crun's run is, may leave it to us only now, after the one that we waited for is gone.
	c.mu.Lock()
	c.forget = forget
	c.mu.Unlock()
	return c.awaitForeign()
}

// Answered says that the launch was answered: from here on its exit may be reported.
func (c *Container) Answered() { close(c.told) }

// EndLaunch ends the launch that is under way, killing the program, and returns
// when it is over or ctx is. What had begun to run by then is there.
func (c *Container) EndLaunch(ctx context.Context) {
	c.cut()
	select {
	case <-c.launched:
	case <-ctx.Done():
	}
}

// store has the service manager hold the container's descriptors too.
func (c *Container) store() {
	kinds, fds := c.Descriptors()
	defer wire.CloseFDs(fds)
	c.set.Store.Put(c.rec.ID, kinds, fds)
}
