// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/monitor/wire"
	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

func TestBadPacketsAreAnswered(t *testing.T) {
	n := monitornode.Start(t)
	c := n.Raw(t)
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
		{"too long", `{"op":"` + strings.Repeat("x", wire.MaxPacket) + `"}`, "too long"},
		{"detach of nothing", `{"op":"detach","req":9,"session":77}`, `"req":9`},
		{"still there", `{"op":"list","req":10}`, `"req":10`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.Ask(tt.packet); !strings.Contains(got, tt.want) {
				t.Errorf("answer %s, want %s in it", got, tt.want)
			}
		})
	}
	t.Run("stray descriptors", func(t *testing.T) {
		before := n.Descriptors()
		if got := c.Ask(`{"op":"list","req":11}`, 0, 1, 2); !strings.Contains(got, "invalid_argument") {
			t.Errorf("answer %s", got)
		}
		if got := n.Descriptors(); got != before {
			t.Errorf("%d descriptors became %d", before, got)
		}
	})
}

// TestDeafClient has a subscriber that never reads while others go on.
func TestDeafClient(t *testing.T) {
	n := monitornode.Start(t)
	deaf := n.Raw(t)
	deaf.Ask(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)
	deaf.Ask(`{"op":"subscribe","req":2}`)
	small := 4096
	_ = unix.SetsockoptInt(deaf.FD, unix.SOL_SOCKET, unix.SO_RCVBUF, small)
	done := make(chan struct{})
	go func() { // requests whose answers nobody reads, until the monitor has had enough
		defer close(done)
		for {
			if err := unix.Sendmsg(deaf.FD, []byte(`{"op":"list","req":3}`), nil, nil, unix.MSG_NOSIGNAL); err != nil {
				return
			}
		}
	}()
	for i := range 5 {
		n.Launch(n.Spec(fmt.Sprint("c", i), "true"))
		n.Exit()
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("a client that does not read was not cut off")
	}
}

// TestNothingLeaks goes through everything many times.
func TestNothingLeaks(t *testing.T) {
	n := monitornode.Start(t)
	cycle := func(i int) {
		id := fmt.Sprint("c", i)
		l := n.Spec(id, "sh", "-c", "read x; printf $x; exit 1")
		l.Stdin, l.StdinOnce = true, true
		n.Launch(l)
		a := n.Attach(id)
		fmt.Fprintln(a.Stdin, "x")
		n.Exit()
		a.Close()
		l = n.Terminal(id, "sh", "-c", "exit 1")
		n.Launch(l)
		n.Exit()
		_, err := n.Client.Launch(n.Ctx(), n.Spec(id, "fail", "3"))
		if failed := (*monitor.LaunchError)(nil); !errors.As(err, &failed) {
			t.Errorf("error %v", err)
		}
		p, err := n.Client.Exec(n.Ctx(), monitor.Exec{Argv: []string{"/bin/true"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(n.Ctx()); err != nil {
			t.Error(err)
		}
		if err := n.Client.Forget(n.Ctx(), id); err != nil {
			t.Error(err)
		}
	}
	cycle(0)
	ours, theirs := monitornode.DescriptorsOf(t, os.Getpid()), n.Descriptors()
	for i := range 30 {
		cycle(i)
	}
	if got := n.Descriptors(); got > theirs {
		t.Errorf("monitor: %d descriptors became %d", theirs, got)
	}
	if got := monitornode.DescriptorsOf(t, os.Getpid()); got > ours {
		t.Errorf("client: %d descriptors became %d", ours, got)
	}
	if got := n.Children(); got != 0 {
		t.Errorf("%d children are left", got)
	}
	entries, err := os.ReadDir(n.Dir + "/m")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), "tty") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestSecondMonitorIsRefused(t *testing.T) {
	n := monitornode.Start(t)
	err := monitor.Spawn(n.Ctx(), monitor.SpawnOptions{
		Binary: n.Dir + "/cri-monitor", Dir: n.Dir + "/m", Socket: n.Dir + "/other", LogFile: n.Dir + "/log",
	})
	if err != nil {
		t.Errorf("spawn: %v", err)
	}
	if _, err := os.Stat(n.Dir + "/other"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a second monitor listens")
	}
	if err := monitor.Spawn(n.Ctx(), monitor.SpawnOptions{
		Binary: "/bin/false", Dir: n.Dir + "/x", Socket: n.Dir + "/x.sock", LogFile: n.Dir + "/log",
	}); err == nil {
		t.Error("spawn of a program that ends at once succeeded")
	}
}

func TestLaunchSurvivesItsClient(t *testing.T) {
	n := monitornode.Start(t)
	c := n.Raw(t)
	c.Ask(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)
	l := n.Spec("c", "sh", "-c", "sleep 0.3; exit 5")
	b, err := json.Marshal(map[string]any{"op": "launch", "req": 2, "launch": l})
	if err != nil {
		t.Fatal(err)
	}
	c.Send(string(b))
	monitornode.Eventually(t, "the launch to begin", func() bool { _, err := os.Stat(filepath.Join(n.Dir, "m", "c", "state.json")); return err == nil })
	unix.Close(c.FD)
	c.FD = -1
	if e := n.Exit(); e.ID != "c" || e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
}

// TestRequestsOfADeadClient: what a client asked for in its last moment and the
// monitor has not taken yet is not done. Whoever comes after it lists what runs,
// and would not see what begins then.
func TestRequestsOfADeadClient(t *testing.T) {
	n := monitornode.Start(t)
	c := n.Raw(t)
	c.Ask(`{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`)
	b, err := json.Marshal(map[string]any{"op": "launch", "req": 2, "launch": n.Spec("late", "sleep", "1000")})
	if err != nil {
		t.Fatal(err)
	}
	goOn := n.Stall()
	c.Send(string(b))
	if err := unix.Shutdown(c.FD, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	goOn()
	n.Launch(n.Spec("next", "sleep", "1000"))
	if list, err := n.Client.List(n.Ctx()); err != nil || len(list) != 1 {
		t.Errorf("running: %v, %v", list, err)
	}
	if err := n.Client.AwaitLaunch(n.Ctx(), "late"); err != nil {
		t.Error(err)
	}
	if list, err := n.Client.List(n.Ctx()); err != nil || len(list) != 1 {
		t.Errorf("running a little later: %v, %v", list, err)
	}
}
