// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/console"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stream"
)

// processes stands in for the container service: it runs commands on this
// machine and notes how their contexts end.
type processes struct {
	ended chan error // cause of the context of the last exec
}

func (p *processes) exec(ctx context.Context, _ state.ContainerID, args []string, c stdio.Client) (int32, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second
	var err error
	if c.TTY {
		err = runOnTerminal(cmd, c)
	} else {
		err = runOnPipes(cmd, c)
	}
	if p.ended != nil {
		p.ended <- context.Cause(ctx)
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return int32(exit.ExitCode()), nil
	}
	return 0, err
}

func runOnPipes(cmd *exec.Cmd, c stdio.Client) error {
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	if c.Stdin == nil {
		return cmd.Run()
	}
	// Not cmd.Stdin: Wait would wait for a client that sends nothing more.
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	go func() { io.Copy(in, c.Stdin); in.Close() }()
	return cmd.Run()
}

func runOnTerminal(cmd *exec.Cmd, c stdio.Client) error {
	pty, path, err := console.NewPty()
	if err != nil {
		return err
	}
	defer pty.Close()
	go io.Copy(pty, c.Stdin) // before anything else: a WebSocket stops at unread input
	first := <-c.Resize
	if err := pty.Resize(console.WinSize{Width: first.Width, Height: first.Height}); err != nil {
		return err
	}
	tty, err := openTerminal(path)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		return err
	}
	tty.Close()
	var copied sync.WaitGroup
	copied.Go(func() { io.Copy(c.Stdout, pty) })
	err = cmd.Wait()
	copied.Wait()
	return err
}

func start(t *testing.T, o stream.Options) (s *stream.Service, stop func()) {
	t.Helper()
	o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	s, err := stream.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("Run goes on, with\n%s", stacks())
		}
	})
	t.Cleanup(stop)
	return s, stop
}

// testWriter keeps the log for failed tests.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// clients are the protocols kubectl's libraries speak.
var clients = []struct {
	name string
	dial func(url string) (remotecommand.Executor, error)
}{
	{"spdy", func(u string) (remotecommand.Executor, error) {
		parsed, err := url.Parse(u)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "POST", parsed)
	}},
	{"websocket", func(u string) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "GET", u)
	}},
	{"websocket v4", func(u string) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, "GET", u, "v4.channel.k8s.io")
	}},
}

func run(t *testing.T, dial func(string) (remotecommand.Executor, error), url string, o remotecommand.StreamOptions) error {
	t.Helper()
	e, err := dial(url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return e.StreamWithContext(ctx, o)
}

func TestExec(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	for _, c := range clients {
		for _, tt := range []struct {
			name           string
			command        []string
			stdin          []byte
			stdout, stderr string
			code           int
		}{
			{name: "output", command: []string{"sh", "-c", "echo out; echo err >&2"}, stdout: "out\n", stderr: "err\n"},
			{name: "exit code", command: []string{"sh", "-c", "echo last words; exit 3"}, stdout: "last words\n", code: 3},
			{name: "much output", command: []string{"sh", "-c", "head -c 4194304 /dev/zero | tr '\\0' x"}, stdout: strings.Repeat("x", 4<<20)},
			{name: "stdin", command: []string{"cat"}, stdin: []byte("hello"), stdout: "hello"},
			{name: "much stdin", command: []string{"cat"}, stdin: big, stdout: string(big)},
		} {
			if tt.stdin != nil && c.name == "websocket v4" {
				continue // v4 can't tell the end of stdin
			}
			t.Run(c.name+"/"+tt.name, func(t *testing.T) {
				s, _ := start(t, stream.Options{Exec: (&processes{}).exec})
				u, err := s.GetExec(stream.Session{Container: "c", Command: tt.command, Stdin: tt.stdin != nil, Stdout: true, Stderr: true})
				if err != nil {
					t.Fatal(err)
				}
				var out, errs bytes.Buffer
				o := remotecommand.StreamOptions{Stdout: &out, Stderr: &errs}
				if tt.stdin != nil {
					o.Stdin = bytes.NewReader(tt.stdin)
				}
				err = run(t, c.dial, u, o)
				var exit utilexec.CodeExitError
				if errors.As(err, &exit) && exit.Code == tt.code {
					err = nil
				} else if tt.code != 0 {
					t.Errorf("error %v, want exit code %d", err, tt.code)
				}
				if err != nil {
					t.Error(err)
				}
				if out.String() != tt.stdout || errs.String() != tt.stderr {
					t.Errorf("stdout %d bytes %.40q, stderr %q", out.Len(), out.String(), errs.String())
				}
			})
		}
	}
}

func TestExecErrorIsTold(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			s, _ := start(t, stream.Options{Exec: func(context.Context, state.ContainerID, []string, stdio.Client) (int32, error) {
				return 0, errors.New("no such program")
			}})
			u, err := s.GetExec(stream.Session{Container: "c", Command: []string{"x"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			err = run(t, c.dial, u, remotecommand.StreamOptions{Stdout: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "no such program") {
				t.Errorf("client is told %v", err)
			}
		})
	}
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestExecTerminal(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			s, _ := start(t, stream.Options{Exec: (&processes{}).exec})
			u, err := s.GetExec(stream.Session{Container: "c", Command: []string{"sh", "-c", "stty size; read line; echo got $line"}, TTY: true, Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			resize := make(sizes, 1)
			resize <- remotecommand.TerminalSize{Width: 123, Height: 45}
			defer close(resize)
			var out bytes.Buffer
			in, keyboard := io.Pipe() // stays open, as a terminal does
			go keyboard.Write([]byte("tea\n"))
			defer keyboard.Close()
			err = run(t, c.dial, u, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: resize})
			if err != nil {
				t.Error(err)
			}
			for _, want := range []string{"45 123", "got tea"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in %q", want, out.String())
				}
			}
		})
	}
}

func TestExecEndsWithItsClient(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			p := &processes{ended: make(chan error, 1)}
			s, _ := start(t, stream.Options{Exec: p.exec})
			u, err := s.GetExec(stream.Session{Container: "c", Command: []string{"sleep", "1000"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			e, err := c.dial(u)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
			select {
			case cause := <-p.ended:
				if cause == nil {
					t.Error("the command ended by itself")
				}
			case <-time.After(10 * time.Second):
				t.Errorf("the command goes on without a client:\n%s", stacks())
			}
		})
	}
}

func TestSessionsEndWithTheDaemon(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			p := &processes{ended: make(chan error, 1)}
			s, stop := start(t, stream.Options{Exec: p.exec})
			u, err := s.GetExec(stream.Session{Container: "c", Command: []string{"sh", "-c", "echo up; exec sleep 1000"}, Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			up, out := io.Pipe()
			client := make(chan error, 1)
			in, keyboard := io.Pipe()
			defer keyboard.Close()
			go func() {
				err := run(t, c.dial, u, remotecommand.StreamOptions{Stdin: in, Stdout: out})
				out.CloseWithError(err) // a client that fails must not leave us waiting for what it says
				client <- err
			}()
			if _, err := io.ReadFull(up, make([]byte, 3)); err != nil {
				t.Fatal("client:", err)
			}
			stop() // fails when it takes too long
			<-p.ended
			if err := <-client; err == nil || !strings.Contains(err.Error(), "stopping") {
				t.Errorf("client is told %v", err)
			}
			noGoroutines(t)
		})
	}
}

// noGoroutines fails when something of the package still runs.
func noGoroutines(t *testing.T) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left = nil
		for s := range strings.SplitSeq(stacks(), "\n\n") {
			if strings.Contains(s, "/pkg/stream.") && !strings.Contains(s, "stream_test.Test") {
				left = append(left, s)
			}
		}
		if left == nil {
			return
		}
	}
	t.Errorf("goroutines left:\n%s", strings.Join(left, "\n\n"))
}

func TestAttachGetsWhatWasAskedFor(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			s, _ := start(t, stream.Options{Attach: func(_ context.Context, id state.ContainerID, c stdio.Client) error {
				if c.Stdin != nil || c.Stderr != nil || c.Stdout == nil || id != "c" || c.TTY {
					return fmt.Errorf("got %+v for %s", c, id)
				}
				_, err := io.WriteString(c.Stdout, "attached")
				return err
			}})
			u, err := s.GetAttach(stream.Session{Container: "c", Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := run(t, c.dial, u, remotecommand.StreamOptions{Stdout: &out}); err != nil {
				t.Error(err)
			}
			if out.String() != "attached" {
				t.Errorf("stdout %q", out.String())
			}
		})
	}
}

func openTerminal(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDWR, 0) }
