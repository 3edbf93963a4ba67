// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/ocilayout"
)

// TestTwoNodes has two nodes whose pods reach each other, and upgrades one after the other under load: a client asks a pod
// of each by turns, 200 times a second, while both write their logs.
func TestTwoNodes(t *testing.T) {
	nodetest.Require(t)
	if _, err := os.Stat(filepath.Join(next(t), "cri-monitor")); err != nil {
		t.Fatalf("no daemon of another build: run make cluster: %v", err)
	}
	nodes := startNodes(t)
	var webs []*web
	for _, m := range nodes {
		webs = append(webs, newWeb(t, m))
	}
	for i, w := range webs {
		other := webs[1-i]
		if out, _, code := w.Exec(t, w.server, testbox, "dial", other.address); code != 0 || out != greeting {
			t.Errorf("%s gets %q from %s, and ends with %d", w.m.name, out, other.address, code)
		}
	}
	var turn atomic.Int64
	l := newLoad(func() error { return greet(webs[turn.Add(1)%2].address) })
	for _, w := range webs {
		replace(t, w.m)
	}
	l.end(t)
	for _, w := range webs {
		w.check(t)
	}
}

// startNodes starts two nodes with a network for the length of the test.
func startNodes(t *testing.T) (nodes []*member) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri-cl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var errs []error
		for _, m := range nodes {
			errs = append(errs, m.end(context.Background()))
		}
		if err := errors.Join(append(errs, removeSwitch())...); err != nil {
			t.Error(err)
			return // there is something to look at
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	from := source{preload: filepath.Join(dir, "preload")}
	_, err = ocilayout.Write(filepath.Join(from.preload, "testbox"), nodetest.TestImage, nodetest.TestboxImage(t))
	if err := errors.Join(err, os.Chmod(dir, 0o711), newSwitch()); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		m, err := newMember(t.Context(), dir, n, from)
		nodes = append(nodes, m)
		if err != nil {
			t.Fatal(err)
		}
		m.pods = fmt.Sprintf("10.244.%d.0/24", n)
	}
	if err := connect(nodes); err != nil {
		t.Fatal(err)
	}
	for _, m := range nodes {
		if err := m.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

const (
	testbox  = "/bin/testbox"
	greeting = "hello from testbox\n"
)

// web is a pod that greets and one container that writes without a pause.
type web struct {
	*nodetest.Node
	m              *member
	server, writer string
	address        string
}

func newWeb(t *testing.T, m *member) *web {
	t.Helper()
	w := &web{m: m, Node: &nodetest.Node{Node: m.Node, LogDir: m.at("logs")}}
	if err := os.Mkdir(w.LogDir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.AwaitImage(t, nodetest.TestImage)
	config := w.PodConfig("web-" + m.name)
	id := w.Pod(t, config)
	w.server = w.Run(t, id, nodetest.ContainerConfig("server", "serve", "8080"), config)
	w.writer = w.Run(t, id, nodetest.ContainerConfig("writer", "lines", "0", "2"), config)
	status, err := w.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		t.Fatal(err)
	}
	w.address = net.JoinHostPort(status.GetStatus().GetNetwork().GetIp(), "8080")
	w.AwaitLog(t, "server", "serving")
	return w
}

func greet(address string) error {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && line != greeting {
		err = fmt.Errorf("%s says %q", address, line)
	}
	return err
}

// check wants the containers to be those that were started, and each line that was written to be in the log once.
func (w *web) check(t *testing.T) {
	t.Helper()
	for _, id := range []string{w.server, w.writer} {
		if s := w.Status(t, id); s.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("container of %s: %v", w.m.name, s)
		}
	}
	if _, err := w.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: w.writer, Timeout: 5}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(w.LogOf(t, "writer")) {
		n++
		if want := fmt.Sprintf("line %d\n", n); line != want {
			t.Fatalf("log of %s: line %d is %q", w.m.name, n, line)
		}
	}
	fmt.Printf("cluster: %d lines of %s, none lost\n", n, w.m.name)
	if n < 1000 {
		t.Errorf("%d lines are no load", n)
	}
}
