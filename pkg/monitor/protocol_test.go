// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
)

// rawClient speaks the protocol by hand.
type rawClient struct {
	t  *testing.T
	fd int
}

func (n *node) raw(t *testing.T) *rawClient {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: n.socket}); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	return &rawClient{t, fd}
}

// ask sends a packet and returns the answer's text.
func (c *rawClient) ask(packet string, fds ...int) string {
	c.t.Helper()
	c.send(packet, fds...)
	b := make([]byte, 1<<17)
	k, err := unix.Read(c.fd, b)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b[:k])
}

func (c *rawClient) send(packet string, fds ...int) {
	c.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(c.fd, []byte(packet), oob, nil, 0); err != nil {
		c.t.Fatal(err)
	}
}

func TestBadPacketsAreAnswered(t *testing.T) {
	n := startNode(t)
	c := n.raw(t)
	const greet = `{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`
	tests := []struct{ name, packet, want string }{
		{"greeting missing", `{"op":"list","req":5}`, "failed_precondition"},
		{"version too old", `{"op":"hello","req":2,"hello":{"version":-1,"oldest":-2}}`, "invalid_argument"},
		{"version too new", `{"op":"hello","req":2,"hello":{"version":99,"oldest":98}}`, "invalid_argument"},
		{"greeting", greet, `"version":1`},
		{"newer client that speaks ours", `{"op":"hello","req":1,"hello":{"version":2,"oldest":1}}`, `"version":1`},
		{"no JSON", `{"op":`, "invalid_argument"},
		{"wrong type", `{"op":7}`, "invalid_argument"},
		{"unknown", `{"op":"dance","req":6}`, "invalid_argument"},
		{"launch of nothing", `{"op":"launch","req":7}`, "invalid_argument"},
		{"launch without an id", `{"op":"launch","req":7,"launch":{}}`, "invalid_argument"},
		{"launch outside", `{"op":"launch","req":7,"launch":{"id":"../x","argv":["/bin/true"],"pid_file":"/x"}}`, "invalid_argument"},
		{"launch without a pid file", `{"op":"launch","req":7,"launch":{"id":"x","argv":["/bin/true"]}}`, "invalid_argument"},
		{"descriptors missing", `{"op":"adopt","req":8,"id":"x","fds":["tty"]}`, "invalid_argument"},
		{"adopt of nobody", `{"op":"adopt","req":8,"id":"x"}`, "not_found"},
		{"too long", `{"op":"` + strings.Repeat("x", monitor.MaxPacket) + `"}`, "too long"},
		{"detach of nothing", `{"op":"detach","req":9,"session":77}`, `"req":9`},
		{"still there", `{"op":"list","req":10}`, `"req":10`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.ask(tt.packet); !strings.Contains(got, tt.want) {
				t.Errorf("answer %s, want %s in it", got, tt.want)
			}
		})
	}
	t.Run("stray descriptors", func(t *testing.T) {
		before := n.descriptors()
		if got := c.ask(`{"op":"list","req":11}`, 0, 1, 2); !strings.Contains(got, "invalid_argument") {
			t.Errorf("answer %s", got)
		}
		if got := n.descriptors(); got != before {
			t.Errorf("%d descriptors became %d", before, got)
		}
	})
}

func (n *node) descriptors() int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid))
	if err != nil {
		n.t.Fatal(err)
	}
	return len(entries)
}

// TestDeafClient has a subscriber that never reads while others go on.
func TestDeafClient(t *testing.T) {
	n := startNode(t)
	deaf := n.raw(t)
	deaf.ask(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)
	deaf.ask(`{"op":"subscribe","req":2}`)
	small := 4096
	_ = unix.SetsockoptInt(deaf.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, small)
	done := make(chan struct{})
	go func() { // requests whose answers nobody reads, until the monitor has had enough
		defer close(done)
		for {
			if err := unix.Sendmsg(deaf.fd, []byte(`{"op":"list","req":3}`), nil, nil, unix.MSG_NOSIGNAL); err != nil {
				return
			}
		}
	}()
	for i := range 5 {
		n.launch(n.spec(fmt.Sprint("c", i), "true"))
		n.exit()
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("a client that does not read was not cut off")
	}
}

// TestNothingLeaks goes through everything many times.
func TestNothingLeaks(t *testing.T) {
	n := startNode(t)
	cycle := func(i int) {
		id := fmt.Sprint("c", i)
		l := n.spec(id, "sh", "-c", "read x; printf $x; exit 1")
		l.Stdin, l.StdinOnce = true, true
		n.launch(l)
		a := n.attach(id)
		fmt.Fprintln(a.Stdin, "x")
		n.exit()
		a.Close()
		l = n.terminal(id, "sh", "-c", "exit 1")
		n.launch(l)
		n.exit()
		_, err := n.client.Launch(n.ctx(), n.spec(id, "fail", "3"))
		if failed := (*monitor.LaunchError)(nil); !errors.As(err, &failed) {
			t.Errorf("error %v", err)
		}
		p, err := n.client.Exec(n.ctx(), monitor.Exec{Argv: []string{"/bin/true"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(n.ctx()); err != nil {
			t.Error(err)
		}
		if err := n.client.Forget(n.ctx(), id); err != nil {
			t.Error(err)
		}
	}
	cycle(0)
	ours, theirs := descriptorsOf(t, os.Getpid()), n.descriptors()
	for i := range 30 {
		cycle(i)
	}
	if got := n.descriptors(); got > theirs {
		t.Errorf("monitor: %d descriptors became %d", theirs, got)
	}
	if got := descriptorsOf(t, os.Getpid()); got > ours {
		t.Errorf("client: %d descriptors became %d", ours, got)
	}
	if got := n.children(); got != 0 {
		t.Errorf("%d children are left", got)
	}
	entries, err := os.ReadDir(n.dir + "/m")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), "tty") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestClientWithoutMonitor(t *testing.T) {
	c := monitor.NewClient(monitor.ClientOptions{Socket: t.TempDir() + "/none"})
	if err := c.Ready(); !errdefs.IsUnavailable(err) {
		t.Errorf("ready: %v", err)
	}
	if _, err := c.Launch(t.Context(), monitor.Launch{}); !errdefs.IsUnavailable(err) {
		t.Errorf("launch: %v", err)
	}
}

func TestSecondMonitorIsRefused(t *testing.T) {
	n := startNode(t)
	err := monitor.Spawn(n.ctx(), monitor.SpawnOptions{
		Binary: n.dir + "/cri-monitor", Dir: n.dir + "/m", Socket: n.dir + "/other", LogFile: n.dir + "/log",
	})
	if err != nil {
		t.Errorf("spawn: %v", err)
	}
	if _, err := os.Stat(n.dir + "/other"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a second monitor listens")
	}
	if err := monitor.Spawn(n.ctx(), monitor.SpawnOptions{
		Binary: "/bin/false", Dir: n.dir + "/x", Socket: n.dir + "/x.sock", LogFile: n.dir + "/log",
	}); err == nil {
		t.Error("spawn of a program that ends at once succeeded")
	}
}

func TestLaunchSurvivesItsClient(t *testing.T) {
	n := startNode(t)
	c := n.raw(t)
	c.ask(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)
	l := n.spec("c", "sh", "-c", "sleep 0.3; exit 5")
	b, err := json.Marshal(map[string]any{"op": "launch", "req": 2, "launch": l})
	if err != nil {
		t.Fatal(err)
	}
	c.send(string(b))
	unix.Close(c.fd)
	c.fd = -1
	if e := n.exit(); e.ID != "c" || e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
}
