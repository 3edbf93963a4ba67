// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// listPage is how many containers one answer to list holds: their descriptors
// have to fit into one packet.
const listPage = 50

// dispatch serves one request; fds are its descriptors. Only exec and adopt
// take any; whatever else came is closed.
func (c *conn) dispatch(p *packet, fds []int) {
	c.mu.Lock()
	greeted := c.greeted
	c.mu.Unlock()
	switch {
	case p.Op == opHello:
		c.answerHello(p)
	case !greeted:
		c.answer(p, nil, failedCondition{errors.New("hello comes first")})
	case p.Op == opExec && p.Exec != nil:
		c.later(p, func(ctx context.Context) { c.exec(ctx, p, fds) })
		return
	case p.Op == opAdopt:
		c.answer(p, nil, c.m.adopt(p, fds))
		return
	case p.Op == opSignal && p.Signal == sys.SIGKILL:
		if ct, err := c.m.container(p.ID); err == nil && ct.underWay() {
			c.later(p, func(ctx context.Context) { c.kill(ctx, ct, p) })
			break
		}
		c.answerShort(p)
	case p.Op == opLaunch && p.Launch != nil:
		c.later(p, func(ctx context.Context) { c.launch(ctx, p) })
	default:
		c.answerShort(p)
	}
	closeFDs(fds)
}

func (c *conn) answerHello(p *packet) {
	h := hello{Version: 1, Oldest: 1}
	if p.Hello != nil {
		h = *p.Hello
	}
	v, err := negotiate(h)
	if err != nil {
		c.answer(p, nil, err)
		return
	}
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	c.answer(p, &packet{Hello: &hello{
		Version: v, Oldest: protocolVersion - 1, Instance: c.m.instance, ExitLog: c.m.exits.epoch, PID: os.Getpid(),
	}}, nil)
}

func (c *conn) launch(ctx context.Context, p *packet) {
	ct, err := c.m.launch(ctx, p.Launch)
	if err != nil {
		c.answer(p, nil, err)
		return
	}
	defer close(ct.told)
	kinds, fds := ct.descriptors()
	ct.mu.Lock()
	running := Running{ID: ct.rec.ID, Launched: ct.rec.Launched}
	ct.mu.Unlock()
	c.post(&packet{Op: p.Op, Req: p.Req, FDs: kinds, Running: []listed{{Running: running}}}, fds)
}

// answerShort serves the requests that neither wait nor carry descriptors.
func (c *conn) answerShort(p *packet) {
	var err error
	switch p.Op {
	case opSubscribe:
		c.subscribe(p)
		return
	case opList:
		if p.Settled {
			c.later(p, func(ctx context.Context) { c.m.awaitLaunches(ctx, p.ID); c.list(p) })
			return
		}
		c.list(p)
		return
	case opAttach:
		c.attach(p)
		return
	case opUpgrade:
		c.upgrade(p)
		return
	case opCancel:
		c.mu.Lock()
		if cancel := c.requests[p.Seq]; cancel != nil {
			cancel()
		}
		c.mu.Unlock()
	case opAck:
		c.m.exits.ack(p.Seq)
	case opDetach:
		c.detach(p.Session, p.Unused)
	case opDetachStdin:
		c.detachStdin(p.Session)
	case opShutdown:
		err = c.m.shutdown()
	case opForget:
		err = c.m.forgetContainer(p.ID)
	case opReopen: // waits for the log's file system, as the writing of lines does
		c.later(p, func(context.Context) { c.answer(p, nil, c.m.reopenLog(p.ID)) })
		return
	case opResize, opStdin, opSignal:
		var ct *container
		if ct, err = c.m.container(p.ID); err == nil {
			err = ct.serve(p)
		}
	default:
		err = invalidArgument{fmt.Errorf("unknown request %q", p.Op)}
	}
	c.answer(p, nil, err)
}

// serve does what a request asks of a running container.
func (c *container) serve(p *packet) error {
	switch p.Op {
	case opResize:
		return c.resize(p.Width, p.Height)
	case opStdin:
		c.closeStdin()
		return nil
	default:
		return c.signal(p.Signal)
	}
}

// reopenLog makes the container's lines go to a new log file.
func (m *Monitor) reopenLog(id string) error {
	ct, err := m.container(id)
	if err != nil {
		return err
	}
	return ct.out.reopen()
}

func (c *container) resize(width, height uint16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty < 0 {
		return failedCondition{fmt.Errorf("resize %s: no terminal", c.rec.ID)}
	}
	if err := unix.IoctlSetWinsize(c.tty, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
		return fmt.Errorf("resize %s: %w", c.rec.ID, err)
	}
	return nil
}

func (c *container) signal(sig int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.pidfd < 0 {
		return notFound{fmt.Errorf("signal %s: process has ended", c.rec.ID)}
	}
	err := sys.PidfdSignal(c.pidfd, sig)
	if errors.Is(err, unix.ESRCH) {
		err = notFound{err}
	}
	if errors.Is(err, unix.EINVAL) {
		err = invalidArgument{err}
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", c.rec.ID, err)
	}
	return nil
}

// subscribe says that the client has adopted what it could: orphans still
// without a status will never have one. Then every exit that was not
// acknowledged is sent, and every later one.
func (c *conn) subscribe(p *packet) {
	c.m.giveUpOrphans()
	c.m.exits.replay(
		func(e Exit) { c.post(&packet{Op: opExit, Exit: &e}, nil) },
		func() {
			c.m.mu.Lock()
			c.subscribed = true
			c.m.mu.Unlock()
		})
	c.answer(p, nil, nil)
}

// list answers with one page of containers, by id, and with their descriptors
// if the client asks for them.
func (c *conn) list(p *packet) {
	c.m.mu.Lock()
	var page []*container
	for _, ct := range c.m.containers {
		if ct.rec.ID > p.Next && (p.ID == "" || ct.rec.ID == p.ID) {
			page = append(page, ct)
		}
	}
	c.m.mu.Unlock()
	// A container that has left already has its exit in the log: the exit is sent before this answer.
	c.m.exits.settle()
	slices.SortFunc(page, func(a, b *container) int {
		if a.rec.ID < b.rec.ID {
			return -1
		}
		return 1
	})
	r := &packet{}
	if len(page) > listPage {
		page = page[:listPage]
		r.Next = page[listPage-1].rec.ID
	}
	var fds []int
	for _, ct := range page {
		l := listed{}
		if p.WantFDs {
			var own []int
			l.FDs, own = ct.descriptors()
			fds = append(fds, own...)
			r.FDs = append(r.FDs, l.FDs...)
		}
		ct.mu.Lock()
		l.ID, l.Launched, l.Orphan = ct.rec.ID, ct.rec.Launched, ct.orphan
		ct.mu.Unlock()
		r.Running = append(r.Running, l)
	}
	r.Op, r.Req = p.Op, p.Req
	c.post(r, fds)
}

// forgetContainer drops what is left of a removed container. One that still
// runs can't be forgotten: its exit would have no reader.
func (m *Monitor) forgetContainer(id string) error {
	if err := validID(id); err != nil {
		return err
	}
	if _, err := m.container(id); err == nil {
		return failedCondition{fmt.Errorf("forget %s: it is running", id)}
	}
	m.exits.drop(id)
	return nil
}
