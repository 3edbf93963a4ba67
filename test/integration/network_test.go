// SPDX-License-Identifier: Apache-2.0

//go:build integration

package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cniNode is a daemon without a default network; its plugins are those of dir
// plugins, then the real ones.
func cniNode(t *testing.T, conf string) (d *nodetest.Node, plugins string) {
	t.Helper()
	t.Parallel()
	d = edited(t, func(d *nodetest.Node, config string) string {
		plugins = filepath.Join(d.Dir, "plugins")
		mustMkdir(t, plugins, filepath.Join(d.Dir, "cni"))
		config = strings.Replace(config, "default_network = true", "", 1)
		return strings.Replace(config, "[cni]\n", fmt.Sprintf("[cni]\nbin_dir = [%q, %q]\n", plugins, nodetest.Bin(t, "cni")), 1)
	}, nodetest.Preload(t))
	if conf != "" {
		writeConf(t, d, "10-test.conflist", conf)
	}
	d.AwaitImage(t, nodetest.TestImage)
	return d, plugins
}

// writeConf puts a network configuration in place as an installer does.
func writeConf(t *testing.T, d *nodetest.Node, name, conf string) {
	t.Helper()
	dir := filepath.Join(d.Dir, "cni")
	mustMkdir(t, dir)
	mustWrite(t, filepath.Join(dir, name+".new"), conf)
	if err := os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// plugin writes a shell script as a CNI plugin.
func plugin(t *testing.T, dir, name, script string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// subnets counts the networks of this run; runs side by side differ in the
// second byte.
var subnets atomic.Int64

func networkPrefix() string { return fmt.Sprintf("10.%d.", 200+os.Getpid()%50) }

// bridgeConf is a network with a bridge of the daemon's; more are the plugins
// that follow.
func bridgeConf(d *nodetest.Node, more string) string {
	third := subnets.Add(1) % 256
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"bridge","bridge":%q,"isGateway":true,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"%s%d.0/24"}],[{"subnet":"fd00:%x:%x::/64"}]]}}%s]}`,
		d.Network.Bridge, filepath.Join(d.Dir, "ipam"), networkPrefix(), third, os.Getpid()%0xffff, third, more)
}

func dropBridge(t *testing.T, bridge string) {
	t.Cleanup(func() {
		if err := runHost("ip", "link", "del", bridge); err != nil {
			t.Log(err)
		}
	})
}

// leases are the addresses that host-local has given out.
func leases(d *nodetest.Node) []string {
	found, _ := filepath.Glob(filepath.Join(d.Dir, "ipam", "test", "*.*.*.*"))
	six, _ := filepath.Glob(filepath.Join(d.Dir, "ipam", "test", "*:*"))
	return append(found, six...)
}

func networkReady(t *testing.T, d *nodetest.Node) *cri.RuntimeCondition {
	return condition(t, d, cri.NetworkReady)
}

func condition(t *testing.T, d *nodetest.Node, kind string) *cri.RuntimeCondition {
	t.Helper()
	s, err := d.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("no condition %s in %v", kind, s)
	return nil
}

func TestNoNetwork(t *testing.T) {
	d, plugins := cniNode(t, "")
	if c := networkReady(t, d); c.Status || !strings.Contains(c.Message, "no CNI configuration") {
		t.Errorf("without a configuration: %v", c)
	}
	refusedPod(t, d, d.PodConfig("a"), "", codes.Unavailable, "no CNI configuration", filepath.Join(d.Dir, "cni"))
	d.NothingLeft(t)
	p, _ := quickPod(t, d, "host") // needs no CNI
	removePod(t, d, p)

	writeConf(t, d, "10-test.conflist", `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"cri-absent"}]}`)
	if c := networkReady(t, d); c.Status || !strings.Contains(c.Message, "cri-absent") {
		t.Errorf("without its plugin: %v", c)
	}
	refusedPod(t, d, d.PodConfig("a"), "", codes.Unavailable, "cri-absent", plugins)
	d.NothingLeft(t)

	writeConf(t, d, "10-test.conflist", `{"cniVersion":"1.0.0","name":"te`)
	if c := networkReady(t, d); c.Status || !strings.Contains(c.Message, "10-test.conflist") {
		t.Errorf("with half a configuration: %v", c)
	}
	writeConf(t, d, "10-test.conflist", `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"cri-fake"}]}`)
	plugin(t, plugins, "cri-fake", `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.7/24"}]}'`)
	if c := networkReady(t, d); !c.Status {
		t.Errorf("with configuration and plugin: %v", c)
	}
	removePod(t, d, d.Pod(t, d.PodConfig("a")))
	d.NothingLeft(t)
}

// A plugin that says no: the pod is refused with the plugin's words, what the
// plugins before it did is undone, and the same pod comes up later.
func TestPluginFails(t *testing.T) {
	d, plugins := cniNode(t, "")
	dropBridge(t, d.Network.Bridge)
	conf := bridgeConf(d, `,{"type":"cri-fake"}`)
	writeConf(t, d, "10-test.conflist", conf)
	plugin(t, plugins, "cri-fake", `
if [ $CNI_COMMAND = ADD ]; then
  echo '{"cniVersion":"1.0.0","code":111,"msg":"the switch is on fire","details":"port 7"}'
  exit 1
fi`)
	config := d.PodConfig("fails")
	refusedPod(t, d, config, "", codes.Unknown, "cri-fake ADD", "the switch is on fire", "port 7", "111")
	if l := leases(d); len(l) > 0 {
		t.Errorf("addresses leaked: %v", l)
	}
	d.NothingLeft(t)
	plugin(t, plugins, "cri-fake", `
if [ $CNI_COMMAND = ADD ]; then
  echo '{"cniVersion":"1.0.0","code":11,"msg":"not yet"}'
  exit 1
fi`)
	refusedPod(t, d, config, "", codes.Unavailable, "not yet")
	d.NothingLeft(t)
	writeConf(t, d, "10-test.conflist", strings.Replace(conf, `,{"type":"cri-fake"}`, "", 1))
	pod := d.Pod(t, config)
	if len(leases(d)) != 2 {
		t.Errorf("leases of the one pod: %v", leases(d))
	}
	removePod(t, d, pod)
	if l := leases(d); len(l) > 0 {
		t.Errorf("addresses leaked: %v", l)
	}
	d.NothingLeft(t)
}

// A plugin that hangs: the caller's deadline says where the pod is stuck, a
// retry joins, and once the plugin goes on the one pod is up.
func TestPluginHangs(t *testing.T) {
	d, plugins := cniNode(t, `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"cri-fake"}]}`)
	gate, count := filepath.Join(d.Dir, "gate"), filepath.Join(d.Dir, "count")
	plugin(t, plugins, "cri-fake", fmt.Sprintf(`
[ $CNI_COMMAND = ADD ] || exit 0
echo x >> %s
while [ ! -e %s ]; do sleep 0.05; done
echo '{"cniVersion":"1.0.0","ips":[{"address":"203.0.113.7/24"}]}'`, count, gate))
	config := d.PodConfig("hangs")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := d.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("impatient caller: %v", err)
	}
	// The client's own deadline hides the answer; the daemon's log has it.
	nodetest.Eventually(t, 5*time.Second, "the log names the stage", func() bool { return strings.Contains(d.Log(), "set up network and run pause") })
	if c := networkReady(t, d); !c.Status {
		t.Errorf("status while a plugin hangs: %v", c)
	}
	joined := make(chan string, 1)
	go func() {
		r, err := d.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
		if err != nil {
			t.Error(err)
		}
		joined <- r.GetPodSandboxId()
	}()
	l, err := d.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(l.Items) != 0 {
		t.Errorf("a pod that is not up is listed: %v, %v", l, err)
	}
	mustWrite(t, gate, "")
	id := <-joined
	if again := d.Pod(t, config); again != id || id == "" {
		t.Errorf("the retry made %s, the first request %s", again, id)
	}
	if calls, _ := os.ReadFile(count); strings.Count(string(calls), "x") != 1 {
		t.Errorf("the plugin ran %q", calls)
	}
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	removePod(t, d, id)
	d.NothingLeft(t)
}

func TestPortMappingsAndDualStack(t *testing.T) {
	d, _ := cniNode(t, "")
	dropBridge(t, d.Network.Bridge)
	writeConf(t, d, "10-test.conflist", bridgeConf(d, `,{"type":"portmap","capabilities":{"portMappings":true},"snat":true}`))
	port := freePort(t)
	config := d.PodConfig("ports")
	config.PortMappings = []*cri.PortMapping{{HostPort: int32(port), ContainerPort: 80, Protocol: cri.Protocol_TCP}}
	pod := d.Pod(t, config)
	s, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	first, more := net.ParseIP(s.Status.Network.Ip), s.Status.Network.AdditionalIps
	if first.To4() == nil || len(more) != 1 || net.ParseIP(more[0].Ip) == nil || net.ParseIP(more[0].Ip).To4() != nil {
		t.Fatalf("addresses %v, want an IPv4 and an IPv6", s.Status.Network)
	}
	c := d.Run(t, pod, nodetest.ContainerConfig("web", "serve", "80"), config)
	d.AwaitLog(t, "web", "serving")
	for _, address := range []string{net.JoinHostPort(s.Status.Network.Ip, "80"), net.JoinHostPort(more[0].Ip, "80"), net.JoinHostPort("127.0.0.1", strconv.Itoa(port))} {
		if answer := dial(t, address); answer != "hello from testbox\n" {
			t.Errorf("%s answers %q", address, answer)
		}
	}
	contains(t, "hosts file", exec(t, d, c, "read", "/etc/hosts"), s.Status.Network.Ip+"\tports", more[0].Ip+"\tports")
	if _, err := d.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second); err == nil {
		c.Close()
		t.Error("the host port answers after the stop")
	}
	if l := leases(d); len(l) > 0 {
		t.Errorf("addresses leaked: %v", l)
	}
	again := clone(config)
	again.Metadata.Attempt = 1
	p2 := d.Pod(t, again) // the port is free again
	d.Run(t, p2, nodetest.ContainerConfig("web2", "serve", "80"), again)
	d.AwaitLog(t, "web2", "serving")
	if answer := dial(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); answer != "hello from testbox\n" {
		t.Errorf("the next pod answers %q at the port", answer)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A node comes up with the default network; a configuration that appears
// later is for new pods, and old ones keep what they have.
func TestConfigurationReplacesDefaultNetwork(t *testing.T) {
	d := node(t)
	old := d.Pod(t, d.PodConfig("old"))
	if c := networkReady(t, d); !c.Status {
		t.Errorf("with the default network: %v", c)
	}
	bridge := d.Network.Bridge
	d.Network.Bridge = bridge + "x"
	conf := bridgeConf(d, "")
	dropBridge(t, d.Network.Bridge)
	d.Network.Bridge = bridge
	writeConf(t, d, "10-test.conflist", conf)
	fresh := d.Pod(t, d.PodConfig("fresh"))
	ip := func(pod string) string {
		s, err := d.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		return s.Status.Network.Ip
	}
	if !strings.HasPrefix(ip(fresh), networkPrefix()) || strings.HasPrefix(ip(old), networkPrefix()) {
		t.Errorf("old pod has %s, fresh one %s", ip(old), ip(fresh))
	}
	removePod(t, d, old)
	removePod(t, d, fresh)
	if l := leases(d); len(l) > 0 {
		t.Errorf("addresses leaked: %v", l)
	}
	d.NothingLeft(t)
}
