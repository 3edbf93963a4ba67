// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/state"
)

// Session is a request for an exec or attach session.
type Session struct {
	Container             state.ContainerID
	Command               []string // of an exec; nil for attach
	TTY                   bool
	Stdin, Stdout, Stderr bool
}

// PortForward is a request for a port-forward session.
type PortForward struct {
	Pod state.PodID
	// Ports are needed by plain WebSocket clients only; SPDY names the port
	// with every connection.
	Ports []int32
}

// GetExec returns the URL of a new exec session. ErrResourceExhausted tells
// that too many URLs wait for their clients.
func (s *Service) GetExec(x Session) (string, error) {
	return s.issue("exec", "container", string(x.Container), func(w http.ResponseWriter, r *http.Request) error {
		return s.serveCommand(w, r, x, func(ctx context.Context, client stdio.Client) error {
			code, err := s.o.Exec(ctx, x.Container, x.Command, client)
			if err == nil && code != 0 {
				return utilexec.CodeExitError{Err: fmt.Errorf("exit code %d", code), Code: int(code)}
			}
			return err
		})
	})
}

// GetAttach returns the URL of a new attach session, with errors like GetExec.
func (s *Service) GetAttach(x Session) (string, error) {
	return s.issue("attach", "container", string(x.Container), func(w http.ResponseWriter, r *http.Request) error {
		return s.serveCommand(w, r, x, func(ctx context.Context, client stdio.Client) error {
			return s.o.Attach(ctx, x.Container, client)
		})
	})
}

// GetPortForward returns the URL of a new port-forward session, with errors
// like GetExec.
func (s *Service) GetPortForward(x PortForward) (string, error) {
	return s.issue("portforward", "pod", string(x.Pod), func(w http.ResponseWriter, r *http.Request) error {
		return s.serveForward(w, r, x)
	})
}

// issue makes the URL that answers with serve, once. object and id say in the
// log whose session it was.
func (s *Service) issue(kind, object, id string, serve func(http.ResponseWriter, *http.Request) error) (string, error) {
	path, err := s.tickets.issue(kind, func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		err := serve(w, r)
		s.o.Log.DebugContext(r.Context(), kind+" session ended", object, id, "dur", time.Since(began), "err", err)
	})
	if err != nil {
		return "", fmt.Errorf("prepare %s: %w", kind, err)
	}
	return s.base.JoinPath(path).String(), nil
}

func (s *Service) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains([]string{http.MethodGet, http.MethodPost}, r.Method) {
		http.Error(w, "use GET or POST", http.StatusMethodNotAllowed)
		return
	}
	serve := s.tickets.redeem(r.URL.Path)
	if serve == nil {
		http.NotFound(w, r)
		return
	}
	s.sessions.Add(1)
	defer s.sessions.Done()
	c := clientOf(r.Context())
	defer c.endServe()
	if err := c.serve(); err != nil {
		s.o.Log.WarnContext(r.Context(), "client not watched, its session may outlive it", "err", err)
	}
	serve(w, r)
}

// command runs a session until it ends. An exit code other than 0 is an
// utilexec.CodeExitError.
type command func(ctx context.Context, client stdio.Client) error

func (s *Service) serveCommand(w http.ResponseWriter, r *http.Request, x Session, run command) error {
	if wantsV5(r) {
		return s.serveV5(w, r, x, run)
	}
	o := &remotecommand.Options{Stdin: x.Stdin, Stdout: x.Stdout, Stderr: x.Stderr, TTY: x.TTY}
	c := &commandOnce{service: s, session: x, run: run, err: errNoStreams}
	if x.Command != nil {
		remotecommand.ServeExec(w, r, c, "", "", "", nil, o, s.o.IdleTimeout,
			remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	} else {
		remotecommand.ServeAttach(w, r, c, "", "", "", o, s.o.IdleTimeout,
			remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	}
	return c.err
}

var errNoStreams = errors.New("client opened no session")

// commandOnce is what cri-streaming calls when a client has opened its
// streams: once, as it serves one request. Names and ids it passes are unused.
type commandOnce struct {
	service *Service
	session Session
	run     command
	err     error // how it ended
}

// ExecInContainer implements cri-streaming's Executor.
func (c *commandOnce) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	c.err = c.service.runCommand(ctx, c.session, ends{in, out, errs, resize}, c.run)
	return c.err
}

// AttachContainer implements cri-streaming's Attacher.
func (c *commandOnce) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c.err = c.service.runCommand(ctx, c.session, ends{in, out, errs, resize}, c.run)
	return c.err
}

// ends are the client's streams.
type ends struct {
	in        io.Reader
	out, errs io.WriteCloser
	resize    <-chan remotecommand.TerminalSize
}

// runCommand runs the session on what was asked for. The libraries hand out
// WebSocket channels for every stream, asked for or not: an attach that took
// the empty stdin for real would close the container's.
func (s *Service) runCommand(ctx context.Context, x Session, e ends, run command) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := stdio.Client{TTY: x.TTY}
	if x.Stdin {
		client.Stdin = e.in
	}
	if x.Stdout {
		client.Stdout = e.out
		defer e.out.Close()
	}
	if x.Stderr && !x.TTY {
		client.Stderr = e.errs
		defer e.errs.Close()
	}
	if e.resize != nil {
		client.Resize = s.sizes(ctx, e.resize, x.TTY)
	}
	err := run(ctx, client)
	if err != nil {
		s.makeRoom(ctx)
	}
	return err
}

// sizes translates terminal sizes until ctx ends. Without a terminal they are
// taken all the same, as input behind them in the connection waits.
func (s *Service) sizes(ctx context.Context, in <-chan remotecommand.TerminalSize, tty bool) <-chan stdio.Size {
	out := make(chan stdio.Size)
	s.sessions.Go(func() {
		defer close(out)
		for {
			select {
			case size, ok := <-in:
				if !ok {
					return
				}
				if !tty {
					continue
				}
				select {
				case out <- stdio.Size{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}

func (s *Service) serveForward(w http.ResponseWriter, r *http.Request, x PortForward) error {
	ctx := r.Context()
	var open atomic.Int32
	f := forwarder(func(port int32, client io.ReadWriteCloser) error {
		open.Add(1)
		defer open.Add(-1)
		err := s.forward(ctx, x.Pod, port, client)
		if err != nil {
			s.o.Log.DebugContext(ctx, "forwarded connection ended", "pod", x.Pod, "err", err)
		}
		return err
	})
	defer context.AfterFunc(ctx, func() { s.endForward(ctx, open.Load() > 0) })()
	serve := func(w http.ResponseWriter, r *http.Request) {
		portforward.ServePortForward(w, r, f, string(x.Pod), "", &portforward.V4Options{Ports: x.Ports}, s.o.IdleTimeout,
			remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
	}
	if wantsTunnel(r) {
		serveTunnel(w, r, serve)
	} else {
		serve(w, r)
	}
	return nil
}

// endForward ends a session whose client is gone, or that the daemon ends. The
// connections in it tell their client of the end, who then closes the session;
// where there are none, there is nothing to wait for.
func (s *Service) endForward(ctx context.Context, inUse bool) {
	c := clientOf(ctx)
	if !inUse || errors.Is(context.Cause(ctx), errClientGone) {
		c.Close()
		return
	}
	s.makeRoom(ctx)
}

// makeRoom lets a client that does not read be told how its session ended: it
// must not take silence for success.
func (s *Service) makeRoom(ctx context.Context) {
	if err := clientOf(ctx).makeRoom(); err != nil {
		s.o.Log.WarnContext(ctx, "client that does not read is not told how its session ended", "err", err)
	}
}
