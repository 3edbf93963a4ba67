// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// webPod answers with its name.
func webPod(name, node string, with ...object) object {
	return pod(name, "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp", append(with, object{"nodeName": node})...)
}

const fetch = "wget -q -O- -T 5 "

func acrossNodes(c *trial) {
	c.apply(webPod("across-1", "n1"), webPod("across-2", "n2"))
	c.ready("across-1")
	c.ready("across-2")
	for from, to := range map[string]string{"across-1": "across-2", "across-2": "across-1"} {
		if got := c.exec(from, fetch+c.field("pod/"+to, ".status.podIP")); got != to+"\n" {
			c.Errorf("%s got %q from %s", from, got, to)
		}
	}
}

func clusterIP(c *trial) {
	app := object{"metadata": object{"labels": object{"app": "web"}}}
	c.apply(service("web", 8080, 80), webPod("web-1", "n1", app), webPod("web-2", "n2", app))
	c.ready("web-1")
	c.ready("web-2")
	seen := map[string]bool{}
	c.eventually("the service leads to both nodes, by its name", func() bool {
		got, err := c.kubectl("", "exec", "web-1", "--", "sh", "-c", fetch+"http://web.default.svc."+domain+":8080")
		seen[got] = err == nil
		return seen["web-1\n"] && seen["web-2\n"]
	})
	if got := c.exec("web-2", fetch+"http://web:8080"); !seen[got] {
		c.Errorf("by its short name: %q", got)
	}
}

func nodePort(c *trial) {
	c.apply(service("node-port", 80, 80, object{"type": "NodePort"}), webPod("node-port", "n2"))
	c.ready("node-port")
	port := c.field("service/node-port", ".spec.ports[0].nodePort")
	for _, m := range c.nodes {
		c.answers("http://"+m.address+":"+port, "node-port\n")
	}
}

func hostPort(c *trial) {
	c.apply(webPod("host-port", "n1", object{"container": object{"ports": []object{{"containerPort": 80, "hostPort": 18080}}}}))
	c.ready("host-port")
	c.answers("http://"+c.nodes[0].address+":18080", "host-port\n")
	c.must("delete", "pod", "host-port", "--timeout=60s")
	if _, err := get("http://" + c.nodes[0].address + ":18080"); err == nil {
		c.Error("the port answers after its pod has gone")
	}
}

func (c *trial) answers(url, want string) {
	c.Helper()
	c.eventually(url+" answers "+want, func() bool {
		got, err := get(url)
		return err == nil && got == want
	})
}

func get(url string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s", url, answer.Status)
	}
	return string(data), err
}

func execs(c *trial) {
	c.apply(pod("exec", forever))
	c.ready("exec")
	if got, err := c.kubectl("from outside\n", "exec", "-i", "exec", "--", "sh", "-c", "cat; echo err >&2; exit 7"); got != "from outside\n" || err == nil || !strings.Contains(err.Error(), "exit status 7") {
		c.Errorf("exec wrote %q and ended with %v", got, err)
	}
	if got := c.must("exec", "exec", "--", "head", "-c", "5000000", "/dev/zero"); len(got) != 5000000 {
		c.Errorf("%d of 5000000 bytes came", len(got))
	}
}

func copies(c *trial) {
	c.apply(pod("copy", forever))
	c.ready("copy")
	there, back := filepath.Join(c.TempDir(), "there"), filepath.Join(c.TempDir(), "back")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(there, data, 0o640); err != nil {
		c.Fatal(err)
	}
	c.must("cp", there, "copy:/tmp/it")
	c.must("cp", "copy:/tmp/it", back)
	if got, err := os.ReadFile(back); !bytes.Equal(got, data) {
		c.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
	}
}

func attaches(c *trial) {
	c.apply(pod("attach", "read line; echo got $line", object{"container": object{"stdin": true, "stdinOnce": true}}))
	c.ready("attach")
	if got, err := c.kubectl("a line\n", "attach", "-i", "attach", "--quiet"); err != nil || !strings.Contains(got, "got a line") {
		c.Errorf("attached: %q, %v", got, err)
	}
	c.wait("pod/attach", "jsonpath={.status.phase}=Succeeded")
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+)`)

func forwards(c *trial) {
	c.apply(webPod("forward", "n2"))
	c.ready("forward")
	log := filepath.Join(c.logs, "port-forward.log")
	p, err := launch(c.logs, "port-forward", c.command("port-forward", "forward", ":80").Args...)
	if err != nil {
		c.Fatal(err)
	}
	defer p.stop()
	var port []byte
	c.eventually("kubectl forwards", func() bool {
		data, _ := os.ReadFile(log)
		if m := forwarding.FindSubmatch(data); m != nil {
			port = m[1]
		}
		return port != nil
	})
	for range 3 {
		if got, err := get("http://127.0.0.1:" + string(port)); got != "forward\n" {
			c.Errorf("through the port: %q, %v", got, err)
		}
	}
}

func follows(c *trial) {
	c.apply(pod("follow", "for i in $(seq 1 200); do echo line $i; usleep 10000; done"))
	c.ready("follow")
	if got := c.must("logs", "-f", "follow"); strings.Count(got, "\n") != 200 || !strings.HasSuffix(got, "line 200\n") {
		c.Errorf("%d lines came, and at last %q", strings.Count(got, "\n"), got[max(0, len(got)-20):])
	}
}
