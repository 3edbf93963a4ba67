// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// wantsV5 tells a WebSocket client that can half-close its stdin.
func wantsV5(r *http.Request) bool { return wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) }

// wantsTunnel tells a client that speaks SPDY inside a WebSocket.
func wantsTunnel(r *http.Request) bool { return wsstream.IsWebSocketRequestWithTunnelingProtocol(r) }

// serveV5 serves exec and attach over the v5 channel protocol: v4's channels
// and status message, plus a message that closes one channel.
func (s *Service) serveV5(w http.ResponseWriter, r *http.Request, x Session, run command) error {
	channels := make([]wsstream.ChannelType, remotecommand.StreamResize+1) // the zero value ignores
	if x.Stdin {
		channels[remotecommand.StreamStdIn] = wsstream.ReadChannel
	}
	if x.Stdout {
		channels[remotecommand.StreamStdOut] = wsstream.WriteChannel
	}
	if x.Stderr {
		channels[remotecommand.StreamStdErr] = wsstream.WriteChannel
	}
	channels[remotecommand.StreamErr] = wsstream.WriteChannel
	channels[remotecommand.StreamResize] = wsstream.ReadChannel

	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: channels},
	})
	conn.SetIdleTimeout(s.o.IdleTimeout)
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoStreams, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	err = s.runCommand(ctx, x, ends{
		in:     streams[remotecommand.StreamStdIn],
		out:    streams[remotecommand.StreamStdOut],
		errs:   streams[remotecommand.StreamStdErr],
		resize: s.decodeSizes(ctx, streams[remotecommand.StreamResize]),
	}, run)
	return errors.Join(err, json.NewEncoder(streams[remotecommand.StreamErr]).Encode(statusOf(err)))
}

// decodeSizes reads terminal sizes until the connection is closed.
func (s *Service) decodeSizes(ctx context.Context, r io.Reader) <-chan remotecommand.TerminalSize {
	sizes := make(chan remotecommand.TerminalSize)
	s.sessions.Go(func() {
		defer close(sizes)
		for d := json.NewDecoder(r); ; {
			var size remotecommand.TerminalSize
			if d.Decode(&size) != nil {
				return
			}
			select {
			case sizes <- size:
			case <-ctx.Done():
				return
			}
		}
	})
	return sizes
}

// sessionStatus is how a session ended, in the JSON form of Kubernetes' Status.
type sessionStatus struct {
	Status  string         `json:"status"`
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Details *statusDetails `json:"details,omitempty"`
	Code    int            `json:"code,omitempty"`
}

type statusDetails struct {
	Causes []statusCause `json:"causes"`
}

type statusCause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func statusOf(err error) sessionStatus {
	if err == nil {
		return sessionStatus{Status: "Success"}
	}
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) {
		return sessionStatus{Status: "Failure", Reason: "InternalError", Message: err.Error(), Code: http.StatusInternalServerError}
	}
	return sessionStatus{
		Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason, Message: "command ended with " + err.Error(),
		Details: &statusDetails{Causes: []statusCause{{Reason: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.Code)}}},
	}
}

// serveTunnel serves an SPDY session whose bytes travel in the binary messages
// of a WebSocket.
func serveTunnel(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request)) {
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			for _, protocol := range c.Protocol {
				if protocol == portforward.WebsocketsSPDYTunnelingPortForwardV1 {
					c.Protocol = []string{protocol}
					return nil
				}
			}
			return fmt.Errorf("none of the protocols %q is supported", c.Protocol)
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			inner := r.Clone(r.Context())
			inner.Header = http.Header{}
			inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
			inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
			inner.Header.Set(httpstream.HeaderProtocolVersion, strings.TrimPrefix(ws.Config().Protocol[0], portforward.WebsocketsSPDYTunnelingPrefix))
			serve(&tunnelResponse{conn: ws, header: http.Header{}}, inner)
		},
	}.ServeHTTP(w, r)
}

// tunnelResponse lets the SPDY library take over a connection that is taken
// over already. Status and headers are dropped: the WebSocket handshake has
// told them.
type tunnelResponse struct {
	conn   net.Conn
	header http.Header
}

func (t *tunnelResponse) Header() http.Header         { return t.header }
func (t *tunnelResponse) WriteHeader(int)             {}
func (t *tunnelResponse) Write(b []byte) (int, error) { return len(b), nil }

// Hijack implements http.Hijacker.
func (t *tunnelResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}
