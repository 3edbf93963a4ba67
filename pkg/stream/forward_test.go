// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/websocket"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/stream"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// podNetwork makes a network namespace with nothing but loopback.
func podNetwork(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	path := filepath.Join("/var/run/netns", fmt.Sprintf("cri-stream-%d", time.Now().UnixNano()))
	if err := netns.New(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Remove(path) })
	err := netns.In(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// listen serves connections inside the namespace ("" is the host's) and
// returns the port.
func listen(t *testing.T, pinned, addr string, serve func(*net.TCPConn)) int {
	t.Helper()
	var l net.Listener
	open := func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}
	var err error
	if pinned == "" {
		err = open()
	} else {
		err = netns.In(pinned, open)
	}
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer conn.Close(); serve(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

// count answers, after the client's last byte, how many bytes came: it works
// only where connections can be half-closed.
func count(conn *net.TCPConn) {
	n, _ := io.Copy(io.Discard, conn)
	fmt.Fprintf(conn, "%d bytes", n)
}

func echo(conn *net.TCPConn) { io.Copy(conn, conn) }

// forwardClients are the two ways kubectl forwards ports.
var forwardClients = []struct {
	name string
	dial func(u *url.URL) (httpstream.Dialer, error)
}{
	{"spdy", func(u *url.URL) (httpstream.Dialer, error) {
		transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
		return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", u), err
	}},
	{"websocket", func(u *url.URL) (httpstream.Dialer, error) {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(u, &rest.Config{})
	}},
}

// forward runs a client that forwards a free local port.
func forward(t *testing.T, s *stream.Service, dial func(*url.URL) (httpstream.Dialer, error), port int) (local string, stop func()) {
	t.Helper()
	quit, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	dialer := dialerFunc(func(...string) (httpstream.Connection, string, error) {
		return dialForward(t, s, dial), "portforward.k8s.io", nil
	})
	f, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:" + strconv.Itoa(port)}, quit, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- f.ForwardPorts(); close(done) }()
	stop = sync.OnceFunc(func() { close(quit); <-done })
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))), stop
}

type dialerFunc func(protocols ...string) (httpstream.Connection, string, error)

func (f dialerFunc) Dial(protocols ...string) (httpstream.Connection, string, error) {
	return f(protocols...)
}

func TestPortForward(t *testing.T) {
	netns := podNetwork(t)
	for _, place := range []struct{ name, netns, addr string }{
		{"pod IPv4", netns, "127.0.0.1:0"},
		{"pod IPv6 only", netns, "[::1]:0"},
		{"host network", "", "127.0.0.1:0"},
	} {
		for _, c := range forwardClients {
			t.Run(place.name+"/"+c.name, func(t *testing.T) {
				s, stop := start(t, stream.Options{NetNS: func(state.PodID) (string, error) { return place.netns, nil }})
				local, hangUp := forward(t, s, c.dial, listen(t, place.netns, place.addr, count))
				var all sync.WaitGroup
				for i := range 8 {
					all.Go(func() { exchange(t, local, i*100_000) })
				}
				all.Wait()
				hangUp()
				stop()
				noGoroutines(t)
			})
		}
	}
}

// exchange sends n bytes and its end, and expects them counted.
func exchange(t *testing.T, addr string, n int) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write(make([]byte, n)); err != nil {
		t.Error(err)
	}
	conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != fmt.Sprintf("%d bytes", n) {
		t.Errorf("answer to %d bytes: %q, %v", n, answer, err)
	}
}

func TestPortForwardToClosedPort(t *testing.T) {
	netns := podNetwork(t)
	for _, c := range forwardClients {
		t.Run(c.name, func(t *testing.T) {
			s, _ := start(t, stream.Options{NetNS: func(state.PodID) (string, error) { return netns, nil }})
			conn := dialForward(t, s, c.dial)
			defer conn.Close()
			header := http.Header{"Streamtype": {"error"}, "Port": {"4321"}, "Requestid": {"0"}}
			complaints, err := conn.CreateStream(header)
			if err != nil {
				t.Fatal(err)
			}
			header.Set("streamType", "data")
			data, err := conn.CreateStream(header)
			if err != nil {
				t.Fatal("the refusal overtakes the confirmation of the stream:", err)
			}
			told, err := io.ReadAll(complaints)
			if err != nil || !strings.Contains(string(told), "port 4321 of pod p") || !strings.Contains(string(told), "connection refused") {
				t.Errorf("client is told %q, %v", told, err)
			}
			if b, err := io.ReadAll(data); len(b) != 0 || err != nil {
				t.Errorf("read %q, %v from a closed port", b, err)
			}
		})
	}
}

func dialForward(t *testing.T, s *stream.Service, dial func(*url.URL) (httpstream.Dialer, error)) httpstream.Connection {
	t.Helper()
	u, err := s.GetPortForward(stream.PortForward{Pod: "p"})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := dial(parsed)
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := dialer.Dial("portforward.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// A pod that keeps a connection open must not keep anything of a session whose
// client has gone.
func TestPortForwardEndsWithItsClient(t *testing.T) {
	netns := podNetwork(t)
	for _, c := range forwardClients {
		t.Run(c.name, func(t *testing.T) {
			s, stop := start(t, stream.Options{NetNS: func(state.PodID) (string, error) { return netns, nil }})
			open, closed := make(chan struct{}), make(chan struct{})
			port := listen(t, netns, "127.0.0.1:0", func(conn *net.TCPConn) {
				close(open)
				io.Copy(io.Discard, conn)
				conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				for { // the write side stays open until the other side is gone for good
					if _, err := conn.Write([]byte("x")); err != nil {
						close(closed)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
			local, hangUp := forward(t, s, c.dial, port)
			conn, err := net.Dial("tcp", local)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			<-open
			hangUp()
			select {
			case <-closed:
			case <-time.After(10 * time.Second):
				t.Errorf("the connection to the pod stays:\n%s", stacks())
			}
			stop()
			noGoroutines(t)
		})
	}
}

// TestForwardTellsOfTheEnd: a connection that the daemon's end cuts says so,
// and a session without connections does not hold the daemon up.
func TestForwardTellsOfTheEnd(t *testing.T) {
	netns := podNetwork(t)
	for _, c := range forwardClients {
		t.Run(c.name, func(t *testing.T) {
			s, stop := start(t, stream.Options{NetNS: func(state.PodID) (string, error) { return netns, nil }})
			port := listen(t, netns, "127.0.0.1:0", echo)
			conn := dialForward(t, s, c.dial)
			idle := dialForward(t, s, c.dial)
			defer idle.Close()
			header := http.Header{"Streamtype": {"error"}, "Port": {strconv.Itoa(port)}, "Requestid": {"0"}}
			complaints, err := conn.CreateStream(header)
			if err != nil {
				t.Fatal(err)
			}
			header.Set("streamType", "data")
			data, err := conn.CreateStream(header)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := data.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := data.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			told := make(chan string, 1)
			go func() {
				b, _ := io.ReadAll(complaints)
				conn.Close() // as clients do
				told <- string(b)
			}()
			stop()
			if text := <-told; !strings.Contains(text, "runtime is stopping") {
				t.Errorf("client is told %q", text)
			}
			noGoroutines(t)
		})
	}
}

// Clients that know only the plain channel protocol name the ports up front.
func TestPortForwardPlainWebSocket(t *testing.T) {
	s, _ := start(t, stream.Options{NetNS: func(state.PodID) (string, error) { return "", nil }})
	port := listen(t, "", "127.0.0.1:0", echo)
	u, err := s.GetPortForward(stream.PortForward{Pod: "p", Ports: []int32{int32(port)}})
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.Dial(strings.Replace(u, "http:", "ws:", 1), "v4.channel.k8s.io", "http://127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.SetDeadline(time.Now().Add(10 * time.Second))
	ws.PayloadType = websocket.BinaryFrame
	if _, err := ws.Write([]byte("\x00ping")); err != nil {
		t.Fatal(err)
	}
	for {
		var frame []byte
		if err := websocket.Message.Receive(ws, &frame); err != nil {
			t.Fatal(err)
		}
		if string(frame) == "\x00ping" {
			return
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	o := stream.Options{Exec: (&processes{}).exec, CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	for path, block := range map[string]*pem.Block{o.CertFile: {Type: "CERTIFICATE", Bytes: cert}, o.KeyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := start(t, o)
	for _, c := range clients[:2] {
		u, err := s.GetExec(stream.Session{Container: "c", Command: []string{"echo", "hi"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := run(t, c.dial, u, remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "hi\n" || !strings.HasPrefix(u, "https:") {
			t.Errorf("%s: %s said %q, %v", c.name, u, &out, err)
		}
	}
}
