// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

// rollingUpgrade replaces, restarts and kills daemon and monitor of one node after the other, while a client asks a
// Service 200 times a second, each time on a new connection, and a log of each node is followed.
func rollingUpgrade(c *trial) {
	app := object{"metadata": object{"labels": object{"app": "load"}}}
	server := object{"container": agnhost("netexec", "--http-port=8080"), "restartPolicy": "Always"}
	c.apply(service("load", 80, 8080))
	for _, m := range c.nodes {
		on := object{"nodeName": m.name, "restartPolicy": "Always"}
		c.apply(pod("load-"+m.name, "", app, server, on),
			pod("writer-"+m.name, "", on, object{"container": object{"image": nodetest.TestImage, "command": []string{"/bin/testbox", "lines", "0", "10"}}}))
		c.ready("load-" + m.name)
		c.ready("writer-" + m.name)
	}
	address := "http://" + c.field("service/load", ".spec.clusterIP") + "/hostname"
	c.answers(address, "load-n1")
	c.answers(address, "load-n2")
	before := c.containers()

	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	l := newLoad(func() error { return ask(client, address) })
	ctx, cancel := context.WithCancel(c.Context())
	var follows []*follower
	for _, m := range c.nodes {
		follows = append(follows, c.follow(ctx, "writer-"+m.name))
	}
	for _, m := range c.nodes {
		replace(c.T, m)
	}
	l.end(c.T)
	for _, f := range follows {
		f.awaitLines(c)
	}
	cancel()
	for _, f := range follows {
		if err := f.end(); err != nil {
			c.Error(err)
		}
	}
	if after := c.containers(); after != before {
		c.Errorf("containers and restarts were\n%s\nand are\n%s", before, after)
	}
}

func ask(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// containers are those of the pods under load, with how often each was restarted.
func (c *trial) containers() string {
	return c.must("get", "pods", "load-n1", "load-n2", "writer-n1", "writer-n2", "-o",
		"jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}")
}

// follower follows a log of numbered lines. A kubelet that cannot ask the runtime about the container, whatever the
// runtime is, ends a stream at the end of the file and says so in place of a new one; then the follower begins anew, and
// wants every line again.
type follower struct {
	pod  string
	done chan struct{}

	mu      sync.Mutex // guards what follows
	seen    int        // lines from the first on
	streams int
	err     error
}

func (c *trial) follow(ctx context.Context, pod string) *follower {
	f := &follower{pod: pod, done: make(chan struct{})}
	go func() { // ends with ctx
		defer close(f.done)
		for ctx.Err() == nil {
			cmd := c.command("logs", "-f", pod)
			if err := f.read(ctx, cmd); err != nil {
				f.mu.Lock()
				f.err = errors.Join(f.err, err)
				f.mu.Unlock()
				return
			}
		}
	}()
	return f
}

func (f *follower) read(ctx context.Context, cmd *exec.Cmd) error {
	f.mu.Lock()
	f.streams++
	f.mu.Unlock()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	defer cmd.Wait()
	n := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n++
		if n == 1 && strings.HasPrefix(lines.Text(), "unable to retrieve container logs for ") {
			return nil
		}
		if want := fmt.Sprintf("line %d", n); lines.Text() != want {
			cmd.Process.Kill()
			return fmt.Errorf("log of %s: after line %d comes %q", f.pod, n-1, lines.Text())
		}
		f.mu.Lock()
		f.seen = max(f.seen, n)
		f.mu.Unlock()
	}
	return nil
}

// awaitLines waits until the follower has seen lines that were written after the last step.
func (f *follower) awaitLines(c *trial) {
	now := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.seen
	}
	written := 0
	if _, err := fmt.Sscanf(c.must("logs", "--tail=1", f.pod), "line %d", &written); err != nil {
		c.Fatal(err)
	}
	c.eventually("the follower of "+f.pod+" has come to the end", func() bool {
		select {
		case <-f.done:
			c.Fatalf("the follower of %s ended at line %d of %d: %v", f.pod, now(), written, f.err)
		default:
		}
		return now() > written
	})
}

func (f *follower) end() error {
	<-f.done
	fmt.Printf("cluster: %d lines of %s in %d streams\n", f.seen, f.pod, f.streams)
	return f.err
}
