// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// clients are the two protocols kubectl speaks.
var clients = []struct {
	name    string
	execute func(u string) (remotecommand.Executor, error)
	forward func(u *url.URL) (httpstream.Dialer, error)
}{
	{"spdy", func(u string) (remotecommand.Executor, error) {
		parsed, err := url.Parse(u)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", parsed)
	}, func(u *url.URL) (httpstream.Dialer, error) {
		transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
		return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", u), err
	}},
	{"websocket", func(u string) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(&rest.Config{}, "GET", u)
	}, func(u *url.URL) (httpstream.Dialer, error) {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(u, &rest.Config{})
	}},
}

// session runs a client against a streaming URL until it ends.
func session(t *testing.T, execute func(u string) (remotecommand.Executor, error), u string, o remotecommand.StreamOptions) error {
	t.Helper()
	e, err := execute(u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return e.StreamWithContext(ctx, o)
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestExecStreams(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "exec")
	id := d.Run(t, pod, inHostNet("app", "sleep"), p)
	open := func(t *testing.T, r *cri.ExecRequest) string {
		t.Helper()
		r.ContainerId = id
		resp, err := d.Runtime.Exec(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Url
	}
	for _, c := range clients {
		t.Run(c.name+"/stdin", func(t *testing.T) {
			var out bytes.Buffer
			u := open(t, &cri.ExecRequest{Cmd: []string{tb, "cat"}, Stdin: true, Stdout: true})
			if err := session(t, c.execute, u, remotecommand.StreamOptions{Stdin: strings.NewReader("through and back "), Stdout: &out}); err != nil {
				t.Error(err)
			}
			if out.String() != "through and back EOF\n" {
				t.Errorf("output %q", out.String())
			}
		})
		t.Run(c.name+"/exit code", func(t *testing.T) {
			u := open(t, &cri.ExecRequest{Cmd: []string{tb, "exit", "9"}, Stdout: true, Stderr: true})
			err := session(t, c.execute, u, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
			var exit utilexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 9 {
				t.Errorf("error %v, want exit code 9", err)
			}
		})
		t.Run(c.name+"/terminal", func(t *testing.T) {
			size := make(sizes, 1)
			size <- remotecommand.TerminalSize{Width: 101, Height: 33}
			u := open(t, &cri.ExecRequest{Cmd: []string{tb, "tty", "again"}, Tty: true, Stdin: true, Stdout: true})
			in, keyboard := io.Pipe()
			r, w := io.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			e, err := c.execute(u)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(ended)
				e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: w, Tty: true, TerminalSizeQueue: size})
			}()
			screen := bufio.NewScanner(r)
			for screen.Scan() && !strings.Contains(screen.Text(), "101x33") {
			}
			size <- remotecommand.TerminalSize{Width: 55, Height: 22}
			for screen.Scan() && !strings.Contains(screen.Text(), "55x22") {
			}
			if err := screen.Err(); err != nil {
				t.Error(err)
			}
			cancel()
			keyboard.Close()
			r.Close()
			close(size)
			<-ended
		})
	}
	t.Run("a ticket is good once", func(t *testing.T) {
		u := open(t, &cri.ExecRequest{Cmd: []string{tb, "echo"}, Stdout: true})
		if err := session(t, clients[0].execute, u, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
			t.Error(err)
		}
		if err := session(t, clients[0].execute, u, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil {
			t.Error("the same address worked again")
		}
	})
}

// attach opens a session with a container's own streams.
func attach(t *testing.T, d *nodetest.Node, id string, tty, stdin bool) string {
	t.Helper()
	r, err := d.Runtime.Attach(t.Context(), &cri.AttachRequest{ContainerId: id, Tty: tty, Stdin: stdin, Stdout: true, Stderr: !tty})
	if err != nil {
		t.Fatal(err)
	}
	return r.Url
}

func TestAttach(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "attach")
	for _, c := range clients {
		t.Run(c.name+"/stdin once", func(t *testing.T) {
			cc := inHostNet("once-"+c.name, "cat")
			cc.Stdin, cc.StdinOnce = true, true
			id := d.Run(t, pod, cc, p)
			var out bytes.Buffer
			if err := session(t, c.execute, attach(t, d, id, false, true), remotecommand.StreamOptions{
				Stdin: strings.NewReader("typed\n"), Stdout: &out, Stderr: io.Discard,
			}); err != nil {
				t.Error(err)
			}
			if st := d.AwaitExit(t, id); st.ExitCode != 0 {
				t.Errorf("status %v", st)
			}
			contains(t, "output", out.String(), "typed\n", "EOF\n")
			contains(t, "log", d.LogOf(t, "once-"+c.name), "typed\n", "EOF\n")
		})
		t.Run(c.name+"/stdin stays open", func(t *testing.T) {
			cc := inHostNet("stays-"+c.name, "cat")
			cc.Stdin = true
			id := d.Run(t, pod, cc, p)
			for _, word := range []string{"first", "second"} {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				e, err := c.execute(attach(t, d, id, false, true))
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				in, keyboard := io.Pipe()
				go func() {
					ended <- e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard, Stderr: io.Discard})
				}()
				fmt.Fprintln(keyboard, word)
				d.AwaitLog(t, "stays-"+c.name, word)
				cancel()
				keyboard.Close()
				<-ended
			}
			if st := d.Status(t, id); st.State != cri.ContainerState_CONTAINER_RUNNING {
				t.Errorf("after two clients left: %v", st)
			}
		})
		t.Run(c.name+"/terminal", func(t *testing.T) {
			cc := inHostNet("tty-"+c.name, "cat")
			cc.Tty, cc.Stdin, cc.StdinOnce = true, true, false
			id := d.Run(t, pod, cc, p)
			in, keyboard := io.Pipe()
			r, w := io.Pipe()
			go func() {
				e, err := c.execute(attach(t, d, id, true, true))
				if err == nil {
					err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: w, Tty: true})
				}
				w.CloseWithError(err)
			}()
			go fmt.Fprint(keyboard, "typed\n\x04") // the terminal turns ^D into the end of input
			out, err := io.ReadAll(r)
			if err != nil && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			contains(t, "screen", string(out), "typed\r\ntyped\r\n", "EOF")
			if st := d.AwaitExit(t, id); st.ExitCode != 0 {
				t.Errorf("status %v", st)
			}
			keyboard.Close()
		})
	}
	t.Run("terminal or not", func(t *testing.T) {
		id := d.Run(t, pod, inHostNet("plain", "sleep"), p)
		_, err := d.Runtime.Attach(t.Context(), &cri.AttachRequest{ContainerId: id, Tty: true, Stdout: true})
		code(t, err, codes.InvalidArgument, "tty")
	})
	t.Run("no stdin", func(t *testing.T) { // /dev/null: it ends at once
		contains(t, "log", output(t, d, pod, inHostNet("no-stdin", "cat"), p), "EOF")
	})
}

func TestPortForward(t *testing.T) {
	d := node(t)
	config := d.PodConfig("forward")
	forwards(t, d, d.Pod(t, config), config)
}

// forwards checks that a port of the pod is reached by each protocol.
func forwards(t *testing.T, d *nodetest.Node, pod string, config *cri.PodSandboxConfig) {
	t.Helper()
	d.Run(t, pod, nodetest.ContainerConfig("web", "serve", "8080"), config)
	d.AwaitLog(t, "web", "serving")
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			r, err := d.Runtime.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: pod, Port: []int32{8080}})
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(r.Url)
			if err != nil {
				t.Fatal(err)
			}
			dialer, err := c.forward(u)
			if err != nil {
				t.Fatal(err)
			}
			quit, ready := make(chan struct{}), make(chan struct{})
			f, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, quit, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- f.ForwardPorts() }()
			defer func() { close(quit); <-ended }()
			select {
			case <-ready:
			case err := <-ended:
				ended <- err
				t.Fatal(err)
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			in := bufio.NewReader(conn)
			if line, err := in.ReadString('\n'); line != "hello from testbox\n" {
				t.Errorf("%q, %v", line, err)
			}
			fmt.Fprintln(conn, "and back")
			if line, err := in.ReadString('\n'); line != "and back\n" {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
}

// A program that closes its terminal and opens it again goes on to be logged and
// shown, and is not held up.
func TestTerminalOpenedAgain(t *testing.T) {
	d := node(t)
	pod, p := quickPod(t, d, "tty-again")
	const lines = 20000
	c := inHostNet("again", "tty-again", strconv.Itoa(lines))
	c.Tty = true
	id := d.Run(t, pod, c, p)
	if st := d.AwaitExit(t, id); st.ExitCode != 5 {
		t.Errorf("status %v", st)
	}
	log := strings.ReplaceAll(d.LogOf(t, "again"), "\r", "")
	contains(t, "log", log, "before\n", "after 0\n", fmt.Sprintf("after %d\n", lines-1))
	if n := strings.Count(log, "after "); n != lines {
		t.Errorf("%d of %d lines are logged", n, lines)
	}
}
