// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stream"
)

// paused is a client's output that takes nothing until it is let go on.
type paused struct {
	goOn  chan struct{}
	taken atomic.Int64
}

func (p *paused) Write(b []byte) (int, error) {
	<-p.goOn
	p.taken.Add(int64(len(b)))
	return len(b), nil
}

// flood writes until it is cut or ctx ends, and counts.
func flood(ctx context.Context, to io.Writer, written *atomic.Int64) {
	for b := bytes.Repeat([]byte("flood "), 5000); ctx.Err() == nil; {
		n, err := to.Write(b)
		written.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// stalled returns when nothing was written any more for a while: the client's
// and the server's buffers are full.
func stalled(t *testing.T, written *atomic.Int64) {
	t.Helper()
	for last, quiet := int64(-1), 0; quiet < 10; time.Sleep(20 * time.Millisecond) {
		if now := written.Load(); now != last || now == 0 {
			last, quiet = now, 0
		} else {
			quiet++
		}
	}
}

const patience = 20 * time.Second

func result(t *testing.T, what string, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(patience):
		t.Fatalf("%s does not end:\n%s", what, stacks())
		return nil
	}
}

// TestClientThatDoesNotReadIsToldOfTheEnd: the connection is full of output
// when the session fails. The client hears of it once it reads.
func TestClientThatDoesNotReadIsToldOfTheEnd(t *testing.T) {
	for _, c := range clients {
		for _, end := range []string{"cut", "daemon stops", "both streams, cut"} {
			t.Run(c.name+"/"+end, func(t *testing.T) {
				var written atomic.Int64
				cut, ended := make(chan struct{}), make(chan error, 1)
				s, stop := start(t, stream.Options{Attach: func(ctx context.Context, _ state.ContainerID, c stdio.Client) error {
					go flood(ctx, c.Stdout, &written)
					if c.Stderr != nil {
						go flood(ctx, c.Stderr, &written)
					}
					select {
					case <-cut:
						return errors.New("cut: too slow")
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}})
				u, err := s.GetAttach(stream.Session{Container: "c", Stdout: true, Stderr: strings.Contains(end, "both")})
				if err != nil {
					t.Fatal(err)
				}
				o := remotecommand.StreamOptions{}
				out := &paused{goOn: make(chan struct{})}
				o.Stdout = out
				if strings.Contains(end, "both") {
					o.Stderr = out
				}
				go func() { ended <- run(t, c.dial, u, o) }()
				stalled(t, &written)
				want := "cut: too slow"
				if end == "daemon stops" {
					want = "runtime is stopping"
					stop() // returns though nobody reads
				} else {
					close(cut)
				}
				time.Sleep(50 * time.Millisecond) // the client sleeps on
				close(out.goOn)
				if err := result(t, "the client", ended); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("after %d bytes the client is told %v, want %q", out.taken.Load(), err, want)
				}
			})
		}
	}
}

// TestSessionsTellWhyTheDaemonEndsThem, each in its way.
func TestSessionsTellWhyTheDaemonEndsThem(t *testing.T) {
	for _, c := range clients {
		for _, kind := range []string{"exec", "attach"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				up := make(chan struct{})
				wait := func(ctx context.Context) error { close(up); <-ctx.Done(); return context.Cause(ctx) }
				s, stop := start(t, stream.Options{
					Exec: func(ctx context.Context, _ state.ContainerID, _ []string, _ stdio.Client) (int32, error) {
						return 9, wait(ctx)
					},
					Attach: func(ctx context.Context, _ state.ContainerID, _ stdio.Client) error { return wait(ctx) },
				})
				ask := s.GetAttach
				x := stream.Session{Container: "c", Stdout: true}
				if kind == "exec" {
					ask, x.Command = s.GetExec, []string{"x"}
				}
				u, err := ask(x)
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- run(t, c.dial, u, remotecommand.StreamOptions{Stdout: io.Discard}) }()
				<-up
				stop()
				if err := result(t, "the client", ended); err == nil || !strings.Contains(err.Error(), "runtime is stopping") {
					t.Errorf("the client is told %v", err)
				}
			})
		}
	}
}

// endless is input that never ends and counts what was taken of it.
type endless struct{ taken atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) {
	e.taken.Add(int64(len(b)))
	return len(b), nil
}

// TestVanishedClientIsNoticedBehindItsInput: nobody reads stdin, so the
// connection's end is behind what waits in it.
func TestVanishedClientIsNoticedBehindItsInput(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			causes := make(chan error, 1)
			s, _ := start(t, stream.Options{Exec: func(ctx context.Context, _ state.ContainerID, _ []string, _ stdio.Client) (int32, error) {
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return 0, context.Cause(ctx)
			}})
			u, err := s.GetExec(stream.Session{Container: "c", Command: []string{"x"}, Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			e, err := c.dial(u)
			if err != nil {
				t.Fatal(err)
			}
			unread := 3 * 32 << 10 // more than the library takes, less than fills the connection
			if c.name == "spdy" {
				unread = 55 * 32 << 10 // it keeps 50 frames
			}
			in := &endless{}
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			go e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: io.LimitReader(in, int64(unread)), Stdout: io.Discard})
			stalled(t, &in.taken)
			leave()
			if cause := result(t, "the command of a client that is gone", causes); !strings.Contains(fmt.Sprint(cause), "closed the connection") {
				t.Errorf("it ended with %v", cause)
			}
		})
	}
}

// TestSlowClientGetsAllBehindItsInput: the command ends with input unread, which
// makes a kernel drop what is still to be sent if the connection is closed.
func TestSlowClientGetsAllBehindItsInput(t *testing.T) {
	const size = 3 << 20
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			in := &endless{}
			s, _ := start(t, stream.Options{Exec: func(_ context.Context, _ state.ContainerID, _ []string, c stdio.Client) (int32, error) {
				stalled(t, &in.taken)
				b := make([]byte, 32<<10)
				for range size / len(b) {
					if _, err := c.Stdout.Write(b); err != nil {
						return 0, err
					}
				}
				return 0, nil
			}})
			u, err := s.GetExec(stream.Session{Container: "c", Command: []string{"x"}, Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			out := &paused{goOn: make(chan struct{})}
			time.AfterFunc(time.Second, func() { close(out.goOn) })
			err = run(t, c.dial, u, remotecommand.StreamOptions{Stdin: in, Stdout: out})
			if n := out.taken.Load(); n != size || err != nil {
				t.Errorf("%d bytes of %d, %v", n, size, err)
			}
		})
	}
}
