// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

const greet = `{"op":"hello","req":1,"hello":{"version":1,"oldest":0}}`

// deaf connects a client that asks all the time and reads nothing, until stop.
func deaf(t *testing.T, n *monitornode.Node) (stop func()) {
	t.Helper()
	c := n.Raw(t)
	c.Ask(greet)
	c.Ask(`{"op":"subscribe","req":2}`)
	askMuch(c)
	over := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
				_ = unix.Sendmsg(c.FD, []byte(`{"op":"list","req":3}`), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			}
		}
	})
	return sync.OnceFunc(func() { close(over); asking.Wait() })
}

// askMuch asks for more answers than a socket holds, and for fewer than the monitor
// puts up with.
func askMuch(c *monitornode.RawClient) {
	for range 1000 {
		c.Send(`{"op":"list","req":3}`)
	}
}

// install puts a program in the place of the one at path, which may be running.
func install(t *testing.T, path, program string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// worksAfter has the monitor do what an upgrade holds up: launch, reap, tell.
func worksAfter(t *testing.T, n *monitornode.Node, when string) {
	t.Helper()
	id := strings.ReplaceAll(when, " ", "-")
	n.Launch(n.Spec(id, "sh", "-c", "exit 3"))
	if e := n.Exit(); e.ID != id || e.Code != 3 {
		t.Errorf("%s: exit %+v", when, e)
	}
}

// TestUpgradeBesideADeafClient: a client that does not read, with its socket full of
// requests, is cut off, and holds up neither the upgrade nor anybody after it.
func TestUpgradeBesideADeafClient(t *testing.T) {
	for name, many := range map[string]int{"one": 1, "many": 8} {
		t.Run(name, func(t *testing.T) {
			n := monitornode.Start(t)
			l := n.Spec("reader", "sh", "-c", "cat; exit 4")
			l.Stdin = true
			n.Launch(l)
			for range many {
				defer deaf(t, n)()
			}
			for range 40 { // and some that are idle
				n.Raw(t).Ask(greet)
			}
			began := time.Now()
			if err := n.Client.Upgrade(n.Ctx()); err != nil {
				t.Fatal("upgrade:", err)
			}
			if took := time.Since(began); took > 5*time.Second+time.Duration(many)*time.Second {
				t.Errorf("the upgrade took %s", took)
			}
			if pid := n.MonitorPID(); pid != n.PID {
				t.Errorf("pid %d became %d", n.PID, pid)
			}
			worksAfter(t, n, "after the upgrade")
			if err := n.Client.Signal(n.Ctx(), "reader", 9); err != nil {
				t.Error(err)
			}
			if e := n.Exit(); e.Signal != 9 {
				t.Errorf("exit %+v", e)
			}
		})
	}
}

// TestFailedUpgradeBesideADeafClient: what fails after clients were cut off leaves
// no one waiting either.
func TestFailedUpgradeBesideADeafClient(t *testing.T) {
	n := monitornode.StartWith(t, monitornode.BuildMonitor(t))
	defer deaf(t, n)()
	for i := range 2 {
		// It answers the check, and can't be executed after that.
		install(t, n.Binary, "#!/bin/sh\necho {}; chmod 0 $0\n")
		if err := n.Client.Upgrade(n.Ctx()); err == nil {
			t.Error("upgrade to what can't be executed succeeded")
		}
		worksAfter(t, n, fmt.Sprint("after failure ", i))
	}
}

// TestUpgradeBesideAStoppedClient: a process that was stopped reads nothing, and its
// attachments end with it: the container's input does, when it was its one chance.
func TestUpgradeBesideAStoppedClient(t *testing.T) {
	n := monitornode.Start(t)
	l := n.Spec("reader", "sh", "-c", "cat; exit 4")
	l.Stdin, l.StdinOnce = true, true
	n.Launch(l)
	c := n.Raw(t)
	c.Ask(greet)
	c.Ask(`{"op":"attach","req":2,"id":"reader","attach":{"stdin":true}}`)
	askMuch(c)
	if err := n.Client.Upgrade(n.Ctx()); err != nil {
		t.Fatal("upgrade:", err)
	}
	if e := n.Exit(); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
}
