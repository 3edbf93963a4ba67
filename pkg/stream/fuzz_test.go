// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/container/stdio"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stream"
)

// openings are how clients begin a session of each kind, as they send it; but for exec over SPDY, where the library waits
// half a minute for the streams of a client that is gone. Port-forward reads the same frames.
var openings = []struct {
	name    string
	forward bool
	headers string
}{
	{"exec, WebSocket v5", false, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n"},
	{"exec, WebSocket v4", false, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n"},
	{"port-forward, WebSocket", true, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n"},
	{"port-forward, SPDY in a WebSocket", true, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n"},
	{"port-forward, SPDY", true, "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n"},
}

// endings is a log that passes the ends of sessions on, and the word of panics that the HTTP server caught.
type endings struct{ ended, panicked chan string }

func (e endings) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) {
		e.panicked <- string(b)
	}
	if bytes.Contains(b, []byte("session ended")) {
		e.ended <- string(b)
	}
	return len(b), nil
}

// FuzzFrames: whatever a client sends once it has opened a session, the session ends with its client.
func FuzzFrames(f *testing.F) {
	masked := func(opcode byte, payload string) []byte { // of a WebSocket, with the mask 0
		return append([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	for kind := range openings {
		f.Add(uint8(kind), []byte{})
		f.Add(uint8(kind), masked(2, "\x00input"))
		f.Add(uint8(kind), append(masked(2, "\x04{\"Width\":80,\"Height\":24}"), masked(2, "\xff\x00")...))
		f.Add(uint8(kind), append(masked(8, ""), masked(9, "ping")...))
		f.Add(uint8(kind), []byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
		f.Add(uint8(kind), []byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1})    // SPDY PING
		f.Add(uint8(kind), []byte{0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff, 0, 0}) // SYN_STREAM, longer than what follows
	}
	log := endings{make(chan string, 16), make(chan string, 16)}
	s, err := stream.New(f.Context(), stream.Options{
		Exec: func(ctx context.Context, _ state.ContainerID, _ []string, c stdio.Client) (int32, error) {
			io.Copy(c.Stdout, c.Stdin)
			return 0, ctx.Err()
		},
		NetNS: func(state.PodID) (string, error) { return "", nil },
		Log:   slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		<-done
	})
	f.Fuzz(func(t *testing.T, kind uint8, frames []byte) {
		o := openings[int(kind)%len(openings)]
		ask := func() (string, error) {
			return s.GetExec(stream.Session{Container: "c", Command: []string{"x"}, Stdin: true, Stdout: true, Stderr: true})
		}
		if o.forward {
			ask = func() (string, error) { return s.GetPortForward(stream.PortForward{Pod: "p", Ports: []int32{1}}) }
		}
		address, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		send(t, address, o.headers, frames)
		select {
		case <-log.ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the session goes on without its client:\n%s", o.name, stacks())
		}
		select {
		case text := <-log.panicked:
			t.Errorf("%s: %s", o.name, text)
		default:
		}
	})
}

// send opens a session, sends the frames and goes away.
func send(t *testing.T, address, headers string, frames []byte) {
	t.Helper()
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET "+at.Path+" HTTP/1.1\r\nHost: "+at.Host+"\r\nOrigin: http://"+at.Host+"\r\n"+headers+"\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("answer %+v, %v", answer, err)
	}
	_, _ = conn.Write(frames) // the session may have ended before the last of them
}
