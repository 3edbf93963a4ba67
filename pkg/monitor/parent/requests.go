// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/pkg/sys"
)

// listPage is how many containers one answer to list holds: their descriptors
// have to fit into one packet.
const listPage = 50

// request is how one kind of request is served.
type request struct {
	// serve answers it. fds are the descriptors it takes, in the order of p.FDs; they are its own.
	serve handler
	// later tells whether serve may wait: it runs beside the connection's reader then, and cancel ends its ctx. nil: no.
	later func(c *conn, p *wire.Packet) bool
	takes []wire.FDKind // the descriptors it takes; what else came is closed
	first bool          // it may come before hello
}

// handler is a method of conn.
type handler func(*conn, context.Context, *wire.Packet, []int)

// requests is the table of all requests.
func requests() map[wire.Op]request {
	stdio := []wire.FDKind{wire.Stdin, wire.Stdout, wire.Stderr}
	held := []wire.FDKind{wire.Pidfd, wire.Stdin, wire.Stdout, wire.Stderr, wire.TTY}
	return map[wire.Op]request{
		wire.OpHello:       {serve: short((*conn).greet), first: true},
		wire.OpSubscribe:   {serve: short((*conn).subscribe)},
		wire.OpLaunch:      {serve: (*conn).launch, later: always},
		wire.OpExec:        {serve: (*conn).exec, later: always, takes: stdio},
		wire.OpCancel:      {serve: done(func(c *conn, p *wire.Packet) error { c.cancelRequest(p.Seq); return nil })},
		wire.OpList:        {serve: (*conn).list, later: func(_ *conn, p *wire.Packet) bool { return p.AfterLaunches }},
		wire.OpAdopt:       {serve: (*conn).adopt, takes: held},
		wire.OpAck:         {serve: done(func(c *conn, p *wire.Packet) error { c.m.exits.Ack(p.Seq); return nil })},
		wire.OpAttach:      {serve: short((*conn).attach)},
		wire.OpDetach:      {serve: done(func(c *conn, p *wire.Packet) error { c.detach(p.Session, p.Unused); return nil })},
		wire.OpDetachStdin: {serve: done(func(c *conn, p *wire.Packet) error { c.detachStdin(p.Session); return nil })},
		wire.OpResize:      {serve: done((*conn).resize)},
		wire.OpCloseStdin:  {serve: done((*conn).closeStdin)},
		wire.OpReopenLog:   {serve: done((*conn).reopenLog), later: always}, // it waits for the log's file system
		wire.OpSignal:      {serve: (*conn).signal, later: func(_ *conn, p *wire.Packet) bool { return p.Signal == sys.SIGKILL }},
		wire.OpForget:      {serve: done(func(c *conn, p *wire.Packet) error { return c.m.running.Forget(p.ID) })},
		wire.OpUpgrade:     {serve: short((*conn).upgrade)},
		wire.OpShutdown:    {serve: done(func(c *conn, _ *wire.Packet) error { return c.m.shutdown() })},
	}
}

// short is a request that takes no descriptors and does not wait.
func short(serve func(c *conn, p *wire.Packet)) handler {
	return func(c *conn, _ context.Context, p *wire.Packet, _ []int) { serve(c, p) }
}

// done is a request whose answer says only how it went.
func done(serve func(c *conn, p *wire.Packet) error) handler {
	return func(c *conn, _ context.Context, p *wire.Packet, _ []int) { c.answer(p, nil, serve(c, p)) }
}

func always(*conn, *wire.Packet) bool { return true }

// dispatch serves one request; fds are its descriptors.
func (c *conn) dispatch(p *wire.Packet, fds []int) {
	r, known := c.m.requests[p.Op]
	var err error
	switch {
	case !r.first && !c.isGreeted():
		err = wire.FailedPrecondition(errors.New("hello comes first"))
	case !known:
		err = wire.InvalidArgument(fmt.Errorf("unknown request %q", p.Op))
	}
	if err != nil {
		wire.CloseFDs(fds)
		c.answer(p, nil, err)
		return
	}
	fds = take(p, fds, r.takes)
	if r.later != nil && r.later(c, p) {
		c.later(p, func(ctx context.Context) { r.serve(c, ctx, p, fds) })
		return
	}
	r.serve(c, c.ctx, p, fds)
}

// take closes the descriptors that are not of the kinds, and takes them out of p.
func take(p *wire.Packet, fds []int, kinds []wire.FDKind) []int {
	var named []wire.FDKind
	var taken []int
	for i, kind := range p.FDs {
		if !slices.Contains(kinds, kind) {
			wire.CloseFDs(fds[i : i+1])
			continue
		}
		named, taken = append(named, kind), append(taken, fds[i])
	}
	p.FDs = named
	return taken
}

// greet agrees on a version and says who is spoken to.
func (c *conn) greet(p *wire.Packet) {
	h := wire.Hello{Version: 1, Oldest: 1}
	if p.Hello != nil {
		h = *p.Hello
	}
	v, err := wire.Negotiate(h)
	if err != nil {
		c.answer(p, nil, err)
		return
	}
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	client := "unknown"
	if h.Build != nil {
		client = h.Build.Version
	}
	c.m.log.Info("client connected", "version", client)
	build := c.m.build()
	c.answer(p, &wire.Packet{Hello: &wire.Hello{
		Version: v, Oldest: wire.Version - 1, Instance: c.m.instance, ExitLog: c.m.exits.Epoch(), PID: os.Getpid(),
		Build: &build, Executable: c.m.o.Executable,
	}}, nil)
}

// subscribe says that the client has adopted what it could: orphans still without
// a status will never have one. Then every exit that was not acknowledged is sent,
// and every later one.
func (c *conn) subscribe(p *wire.Packet) {
	c.m.running.GiveUpOrphans()
	c.follow()
	c.answer(p, nil, nil)
}

// follow sends every exit that is not acknowledged, and from then on every one.
func (c *conn) follow() {
	c.m.exits.Replay(
		func(e wire.Exit) { c.post(&wire.Packet{Op: wire.OpExit, Exit: &e}, nil) },
		func() {
			c.m.mu.Lock()
			c.subscribed = true
			c.m.mu.Unlock()
		})
}

// launch starts a container; its exit comes after the answer.
func (c *conn) launch(ctx context.Context, p *wire.Packet, _ []int) {
	if p.Launch == nil {
		c.answer(p, nil, wire.InvalidArgument(errors.New("launch: it does not say what")))
		return
	}
	ct, err := c.m.running.Launch(ctx, p.Launch)
	if err != nil {
		c.answer(p, nil, err)
		return
	}
	defer ct.Answered()
	kinds, fds := ct.Descriptors()
	c.post(&wire.Packet{Op: p.Op, Req: p.Req, FDs: kinds, Running: []wire.Listed{ct.Listed()}}, fds)
}

func (c *conn) cancelRequest(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.requests[number]; cancel != nil {
		cancel()
	}
}

// list answers with one page of containers, by id, and with their descriptors if
// the client asks for them; if it asks for that, once launches are over.
func (c *conn) list(ctx context.Context, p *wire.Packet, _ []int) {
	if p.AfterLaunches {
		c.m.running.AwaitLaunches(ctx, p.ID)
	}
	all := c.m.running.All()
	// A container that has left already has its exit in the log: the exit is sent before this answer.
	c.m.exits.AwaitPublished()
	r := &wire.Packet{Op: p.Op, Req: p.Req}
	var fds []int
	for _, ct := range all {
		if ct.ID() <= p.Next || p.ID != "" && ct.ID() != p.ID {
			continue
		}
		if len(r.Running) == listPage {
			r.Next = r.Running[listPage-1].ID
			break
		}
		l := ct.Listed()
		if p.WantFDs {
			kinds, own := ct.Descriptors()
			l.FDs, fds = kinds, append(fds, own...)
			r.FDs = append(r.FDs, kinds...)
		}
		r.Running = append(r.Running, l)
	}
	c.post(r, fds)
}

// adopt takes what the client kept of a container for a dead monitor's successor.
func (c *conn) adopt(_ context.Context, p *wire.Packet, fds []int) {
	c.answer(p, nil, c.m.running.Adopt(p, fds))
}

func (c *conn) resize(p *wire.Packet) error {
	ct, err := c.m.running.Get(p.ID)
	if err != nil {
		return err
	}
	return ct.Resize(p.Width, p.Height)
}

func (c *conn) closeStdin(p *wire.Packet) error {
	ct, err := c.m.running.Get(p.ID)
	if err == nil {
		ct.CloseStdin()
	}
	return err
}

func (c *conn) reopenLog(p *wire.Packet) error {
	ct, err := c.m.running.Get(p.ID)
	if err != nil {
		return err
	}
	return ct.ReopenLog()
}

// signal signals a container's first process. A SIGKILL for a container whose
// launch is still under way cancels the launch, waits for it, and then signals
// whatever it left.
func (c *conn) signal(ctx context.Context, p *wire.Packet, _ []int) {
	ct, err := c.m.running.Get(p.ID)
	if err == nil && p.Signal == sys.SIGKILL && ct.Launching() {
		ct.EndLaunch(ctx)
		ct, err = c.m.running.Get(p.ID)
	}
	if err == nil {
		err = ct.Signal(p.Signal)
	}
	c.answer(p, nil, err)
}
