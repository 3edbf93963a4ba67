// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
)

// Delays between attempts to reach a monitor; the first is immediate.
const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = time.Second
)

// ClientOptions configure a Client.
type ClientOptions struct {
	Socket string // of the monitor
	// Start starts a detached monitor when none answers, and returns once it listens; nil: never.
	Start func(ctx context.Context) error
	// Binary is the path of the cri-monitor that a monitor of another build is to be replaced by, in place; "": none is.
	Binary  string
	Version string // of this program, which the monitor logs
	Log     *slog.Logger
}

// Client is the daemon's end. It keeps one connection, makes it again whenever
// it breaks, and holds a second copy of every container's descriptors for the
// monitor's successor. All methods may be called at any time and from any
// goroutine; those that need a monitor fail with an error of class Unavailable
// while there is none.
type Client struct {
	o     ClientOptions
	exits *exitList
	over  chan struct{} // closed when Run has returned

	instance string // of the last monitor; Run's, as is offered
	offered  string // the instance that was last compared with Binary

	mu   sync.Mutex // guards what follows
	link *link
	why  error // of link being nil
	// changed is closed, and made anew, whenever link changes.
	changed chan struct{}
	shut    bool // by Shutdown: no successor is wanted
	copies  map[string]*copies
}

// NewClient returns a client that is not connected: Run does that.
func NewClient(o ClientOptions) *Client {
	return &Client{
		o: o, exits: newExitList(), copies: map[string]*copies{}, changed: make(chan struct{}), over: make(chan struct{}),
		why: wire.Unavailable(errors.New("monitor: not connected yet")),
	}
}

// Run connects, and connects again for ever; it returns nil when ctx ends. Call
// it once.
func (c *Client) Run(ctx context.Context) error {
	defer c.releaseAll()
	delay, said := time.Duration(0), ""
	for ctx.Err() == nil && !c.isShut() {
		began := time.Now()
		err := c.connect(ctx)
		if ctx.Err() != nil || c.isShut() {
			break
		}
		if time.Since(began) > lastRetry {
			delay, said = 0, ""
		}
		if err.Error() != said { // once, not once a second
			said = err.Error()
			c.o.Log.Warn("no connection to the monitor", "err", err)
		}
		c.setLink(nil, wire.Unavailable(fmt.Errorf("monitor: %w", err)))
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(max(firstRetry, 2*delay), lastRetry)
	}
	c.setLink(nil, wire.Unavailable(errClosed))
	close(c.over)
	return nil
}

var errClosed = errors.New("monitor: client is closed")

// Ready returns nil while there is a connection, else why not.
func (c *Client) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// connect makes one connection and serves it until it breaks.
func (c *Client) connect(ctx context.Context) error {
	sock, err := wire.Dial(c.o.Socket)
	if err != nil && c.o.Start != nil {
		if err := c.o.Start(ctx); err != nil {
			return fmt.Errorf("start: %w", err)
		}
		sock, err = wire.Dial(c.o.Socket)
	}
	if err != nil {
		return err
	}
	if err := sameNamespaces(sock); err != nil {
		sock.Close()
		return err
	}
	l := newLink(c, sock)
	defer context.AfterFunc(ctx, l.close)()
	var broken error // valid after ended
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		broken = l.read()
	}()
	hello, err := c.handshake(ctx, l)
	if err != nil {
		l.close()
		<-ended
		return err
	}
	c.replaceOther(ctx, hello)
	<-ended
	l.close()
	return broken
}

// handshake brings a new connection to where it can be used: agree on a version,
// hand over what is kept, take what is not, ask for exits.
func (c *Client) handshake(ctx context.Context, l *link) (*wire.Hello, error) {
	own := &wire.Hello{Version: wire.Version, Oldest: wire.Version - 1, Build: &wire.Build{Version: c.o.Version}}
	r, _, err := l.call(ctx, &wire.Packet{Op: wire.OpHello, Hello: own}, nil)
	if err != nil {
		return nil, fmt.Errorf("greet: %w", err)
	}
	if r.Hello == nil {
		return nil, errors.New("greet: no hello in the answer")
	}
	if err := c.adopt(ctx, l); err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	c.exits.begin(r.Hello.ExitLog)
	if _, _, err := l.call(ctx, &wire.Packet{Op: wire.OpSubscribe}, nil); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	again := c.instance != "" && c.instance != r.Hello.Instance
	c.instance = r.Hello.Instance
	c.o.Log.Info("monitor connected", "pid", r.Hello.PID, "successor", again)
	c.setLink(l, nil)
	c.exits.connected(again)
	return r.Hello, nil
}

func (c *Client) setLink(l *link, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.why = l, why
	close(c.changed)
	c.changed = make(chan struct{})
}

// current returns the connection, or why there is none.
func (c *Client) current() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link, c.why
}

// call sends a request on the current connection and waits for the answer,
// whose descriptors are the caller's.
func (c *Client) call(ctx context.Context, p *wire.Packet) (*wire.Packet, []int, error) {
	l, err := c.current()
	if err != nil {
		return nil, nil, err
	}
	return l.call(ctx, p, nil)
}

// do is call for requests whose answer is empty.
func (c *Client) do(ctx context.Context, p *wire.Packet) error {
	_, fds, err := c.call(ctx, p)
	wire.CloseFDs(fds)
	return err
}

// event serves what the monitor sends unasked.
func (c *Client) event(l *link, p *wire.Packet) {
	switch p.Op {
	case wire.OpExit:
		if p.Exit != nil {
			c.drop(p.Exit.ID)
			c.exits.put(*p.Exit)
		}
	case wire.OpStdinClosed:
		c.dropStdin(p.ID)
	case wire.OpSessionExit, wire.OpDetached:
		l.endSession(p)
	default:
		c.o.Log.Warn("monitor sent an unknown event", "op", p.Op, "err", p.Err.Err())
	}
}
