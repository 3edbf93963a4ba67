// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/sys/dump"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/test/await"
)

func TestAddDelWithRealPlugins(t *testing.T) {
	needPlugins(t)
	n := newNode(t)
	n.write("10-net.conflist", n.bridgeConf(`,{"type":"portmap","capabilities":{"portMappings":true}}`))
	a := n.pod("p1")
	a.PortMappings = []*cri.PortMapping{{HostPort: 18080, ContainerPort: 80}, {HostPort: 0, ContainerPort: 81}}
	res, err := n.Add(t.Context(), a)
	must(t, err)
	if len(res.IPs) != 1 || !strings.HasPrefix(res.IPs[0], "10.77.") {
		t.Fatalf("IPs %v", res.IPs)
	}
	must(t, netns.In(a.NetNS, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return errors.New("loopback is down")
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(eth, netlink.FAMILY_V4) })
		if err != nil || len(addrs) != 1 || addrs[0].IP.String() != res.IPs[0] {
			return fmt.Errorf("eth0 has %v, result said %v: %w", addrs, res.IPs, err)
		}
		return nil
	}))
	reachable(t, a.NetNS, net.JoinHostPort(res.IPs[0], "80"), net.JoinHostPort("192.0.2.1", "18080"))

	n.restart() // what a new daemon knows is enough
	must(t, n.Del(t.Context(), network.Attachment{PodID: "p1"}))
	must(t, n.Del(t.Context(), a))
	n.noLeaks()
}

// reachable serves inside and connects from the host, directly and by the host port.
func reachable(t *testing.T, path string, addrs ...string) {
	t.Helper()
	var l net.Listener
	must(t, netns.In(path, func() (err error) {
		l, err = net.Listen("tcp4", "0.0.0.0:80")
		return err
	}))
	defer l.Close()
	for _, addr := range addrs {
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err != nil {
			t.Errorf("reach pod: %v", err)
			continue
		}
		c.Close()
	}
}

func TestDualStackKeepsTheNetworksOrder(t *testing.T) {
	needPlugins(t)
	n := newNode(t)
	conf := strings.Replace(n.bridgeConf(""), `[[{"subnet":"10.77.0.0/16"}]]`, `[[{"subnet":"fd77::/64"}],[{"subnet":"10.77.0.0/16"}]]`, 1)
	n.write("10-net.conflist", conf)
	a := n.pod("p1")
	res, err := n.Add(t.Context(), a)
	must(t, err)
	if len(res.IPs) != 2 || res.IPs[0] != "fd77::2" || !strings.HasPrefix(res.IPs[1], "10.77.") {
		t.Errorf("IPs %v, want the IPv6 address first", res.IPs)
	}
	must(t, n.Del(t.Context(), a))
	n.noLeaks()
}

func TestDelWhenConfigurationAndNamespaceAreGone(t *testing.T) {
	needPlugins(t)
	n := newNode(t)
	n.write("10-net.conflist", n.bridgeConf(""))
	a := n.pod("p1")
	_, err := n.Add(t.Context(), a)
	must(t, err)
	n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"other","plugins":[`+n.fake("")+`]}`)
	must(t, os.RemoveAll(n.conf))
	must(t, netns.Remove(a.NetNS))
	n.restart()
	must(t, n.Del(t.Context(), a))
	if got := n.calls("calls"); len(got) != 0 {
		t.Errorf("the new network's plugin was asked: %v", commands(got))
	}
	await.Until(t, 10*time.Second, "veth of a dead namespace gone", func() bool {
		links, err := dump.Whole(netlink.LinkList)
		must(t, err)
		for _, l := range links {
			if l.Type() == "veth" && !strings.HasPrefix(l.Attrs().Name, "uplink") {
				return false
			}
		}
		return true
	})
	n.noLeaks()
}

func TestFailingAddIsUndone(t *testing.T) {
	needPlugins(t)
	for _, tc := range []struct {
		name, fake string
		errs       []string
		class      func(error) bool
	}{
		{"plugin says no", `,"fail":"ADD","code":7`, []string{"add to network", fakePlugin + " ADD: refused; by the test (code 7)"}, nil},
		{"later", `,"fail":"ADD","code":11`, []string{"refused"}, errdefs.IsUnavailable},
		{"crash", `,"crash":"ADD"`, []string{fakePlugin + " ADD: exit code 2: panic: oh no"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			n.write("10-net.conflist", n.bridgeConf(","+n.fake(tc.fake)))
			_, err := n.Add(t.Context(), n.pod("p1"))
			wantErr(t, err, tc.errs...)
			if tc.class != nil && !tc.class(err) {
				t.Errorf("class of %v", err)
			}
			if got := commands(n.calls("calls")); got != "ADD DEL" {
				t.Errorf("plugin was asked %q", got)
			}
			n.noLeaks()
		})
	}
}

func TestFailingUndoIsTriedAgain(t *testing.T) {
	needPlugins(t)
	n := newNode(t)
	n.write("10-net.conflist", n.bridgeConf(","+n.fake(`,"fail":"ADD DEL"`)))
	a := n.pod("p1")
	_, err := n.Add(t.Context(), a)
	wantErr(t, err, fakePlugin+" ADD: refused", "undo", fakePlugin+" DEL: refused")
	wantErr(t, n.Del(t.Context(), a), "DEL: refused")
	// Its configuration is what the ADD was begun with, so a plugin that recovers is all it takes.
	record := n.cache + "/attachments/p1.json"
	raw, err := os.ReadFile(record)
	must(t, err)
	if !strings.Contains(string(raw), "p1") {
		t.Fatalf("record %s", raw)
	}
	must(t, os.Remove(n.dir+"/bin/"+fakePlugin))
	must(t, os.Symlink("/bin/true", n.dir+"/bin/"+fakePlugin))
	n.restart()
	must(t, n.GC(t.Context(), nil))
	n.noLeaks()
}

func TestHangingAddIsKilled(t *testing.T) {
	needPlugins(t)
	n := newNode(t, func(o *network.Options) { o.Timeout = 3 * time.Second })
	n.write("10-net.conflist", n.bridgeConf(","+n.fake(`,"hang":"ADD"`)))
	start := time.Now()
	_, err := n.Add(t.Context(), n.pod("p1"))
	wantErr(t, err, fakePlugin+" ADD killed after", "no answer within 3s")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("class of %v", err)
	}
	if took := time.Since(start); took > 12*time.Second {
		t.Errorf("took %s", took)
	}
	await.Until(t, 10*time.Second, "the plugin's child dies too", func() bool { _, alive := n.pluginsChild(); return !alive })
	n.noLeaks()
}

// TestCancelledAdd: the caller is answered at once, the plugin goes on, and the next Del waits for it.
func TestCancelledAdd(t *testing.T) {
	needPlugins(t)
	for _, tc := range []struct{ name, fake string }{
		{"slow", `,"slow":"ADD"`},
		{"hangs", `,"hang":"ADD"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, func(o *network.Options) { o.Timeout = 3 * time.Second })
			n.write("10-net.conflist", n.bridgeConf(","+n.fake(tc.fake)))
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for len(n.calls("calls")) == 0 {
					time.Sleep(5 * time.Millisecond)
				}
				cancel()
			}()
			a := n.pod("p1")
			_, err := n.Add(ctx, a)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			must(t, n.Del(t.Context(), a))
			if got := commands(n.calls("calls")); got != "ADD DEL" {
				t.Errorf("plugin was asked %q", got)
			}
			if done := n.finished(); done != (tc.name == "slow") {
				t.Errorf("plugin finished: %t", done)
			}
			n.noLeaks()
		})
	}
}

// playCrasher attaches or detaches a pod, to be killed within.
func playCrasher(order string) int {
	what, dir, _ := strings.Cut(order, ":")
	s, err := network.New(network.Options{ConfDir: dir + "/net.d", BinDirs: []string{dir + "/bin", pluginDir()}, CacheDir: dir + "/cache"})
	a := network.Attachment{PodID: "p1", NetNS: dir + "/netns/cri-p1", PortMappings: []*cri.PortMapping{{HostPort: 18080, ContainerPort: 80}}}
	switch {
	case err != nil:
	case what == "add":
		_, err = s.Add(context.Background(), a)
	case what == "del":
		err = s.Del(context.Background(), a)
	}
	fmt.Println("crasher ended early:", err)
	return 1
}

// TestKilledInTheMiddleOfAdd: a plugin that was begun is let finish, within its limit, and undone by the next daemon.
func TestKilledInTheMiddleOfAdd(t *testing.T) {
	needPlugins(t)
	for _, tc := range []struct{ name, fake string }{
		{"slow", `,"slow":"ADD"`},
		{"hangs", `,"hang":"ADD"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, func(o *network.Options) { o.Timeout = 3 * time.Second })
			n.write("10-net.conflist", n.bridgeConf(","+n.fake(tc.fake)))
			a := n.pod("p1")
			n.killedWhile("add", func() bool { return len(n.calls("calls")) == 1 })
			n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"other","plugins":[`+n.fake("")+`]}`)
			n.restart()
			must(t, n.Del(t.Context(), a))
			if got := commands(n.calls("calls")); got != "ADD DEL" {
				t.Errorf("plugin was asked %q", got)
			}
			if done := n.finished(); done != (tc.name == "slow") {
				t.Errorf("plugin finished: %t", done)
			}
			if _, alive := n.pluginsChild(); alive {
				t.Error("the plugin's child lives")
			}
			n.noLeaks()
		})
	}
}

// TestKilledInTheMiddleOfDel is the same for DEL, which is asked again.
func TestKilledInTheMiddleOfDel(t *testing.T) {
	needPlugins(t)
	n := newNode(t)
	n.write("10-net.conflist", n.bridgeConf(","+n.fake(`,"slow":"DEL"`)))
	a := n.pod("p1")
	_, err := n.Add(t.Context(), a)
	must(t, err)
	n.killedWhile("del", func() bool { return len(n.calls("calls")) == 2 })
	n.restart()
	must(t, n.Del(t.Context(), a))
	if got := commands(n.calls("calls")); got != "ADD DEL DEL" || !n.finished() {
		t.Errorf("plugin was asked %q, finished: %t", got, n.finished())
	}
	n.noLeaks()
}

// killedWhile has another process do something, and kills it at a moment.
func (n *node) killedWhile(what string, moment func() bool) {
	n.t.Helper()
	daemon := exec.Command("/proc/self/exe")
	daemon.Env = append(os.Environ(), crashEnv+"="+what+":"+n.dir)
	must(n.t, daemon.Start())
	await.Until(n.t, 10*time.Second, "the moment of the kill", moment)
	must(n.t, daemon.Process.Signal(syscall.SIGKILL))
	_ = daemon.Wait()
}

// TestOneAtATime: DEL of one pod by two callers, such as a sweep and a garbage collection.
func TestOneAtATime(t *testing.T) {
	n := newNode(t)
	n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[`+n.fake(`,"alone":"`+n.dir+`/alone"`)+`]}`)
	a := n.pod("p1")
	_, err := n.Add(t.Context(), a)
	must(t, err)
	n.restart()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := errors.Join(n.Del(t.Context(), a), n.GC(t.Context(), nil)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := commands(n.calls("calls")); got != "ADD DEL" {
		t.Errorf("plugin was asked %q", got)
	}
}

func TestConcurrentAdds(t *testing.T) {
	needPlugins(t)
	n := newNode(t)
	n.write("10-net.conflist", n.bridgeConf(""))
	var wg sync.WaitGroup
	var mu sync.Mutex
	ips := map[string]bool{}
	pods := make([]network.Attachment, 10)
	for i := range pods {
		pods[i] = n.pod(fmt.Sprintf("p%d", i))
		wg.Go(func() {
			res, err := n.Add(t.Context(), pods[i])
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ips[res.IPs[0]] = true
		})
	}
	wg.Wait()
	if len(ips) != len(pods) {
		t.Errorf("%d addresses for %d pods", len(ips), len(pods))
	}
	for _, a := range pods {
		wg.Go(func() {
			if err := n.Del(t.Context(), a); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n.noLeaks()
}

func TestWhatPluginsAreTold(t *testing.T) {
	n := newNode(t)
	n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[`+n.fake(
		`,"capabilities":{"portMappings":true,"bandwidth":true,"dns":true,"ipRanges":true,"cgroupPath":true,"io.kubernetes.cri.pod-annotations":true}`)+`]}`)
	must(t, n.SetPodCIDRs([]string{"10.5.0.0/24", "fd05::/64"}))
	n.restart()
	a := n.pod("p1")
	a.PortMappings = []*cri.PortMapping{{HostPort: 53, ContainerPort: 5353, Protocol: cri.Protocol_UDP, HostIp: "192.0.2.1"}}
	a.DNS = &cri.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}}
	a.CgroupPath = "/kubepods/pod1"
	a.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M"}
	res, err := n.Add(t.Context(), a)
	must(t, err)
	if len(res.IPs) != 1 || res.IPs[0] != "203.0.113.7" {
		t.Errorf("IPs %v", res.IPs)
	}
	must(t, n.Del(t.Context(), a))
	calls := n.calls("calls")
	if commands(calls) != "ADD DEL" {
		t.Fatalf("calls %v", commands(calls))
	}
	want := `{"bandwidth":{"ingressBurst":4294967295,"ingressRate":10000000},"cgroupPath":"/kubepods/pod1",` +
		`"dns":{"options":null,"searches":["example.org"],"servers":["192.0.2.53"]},` +
		`"io.kubernetes.cri.pod-annotations":{"kubernetes.io/ingress-bandwidth":"10M"},` +
		`"ipRanges":[[{"subnet":"10.5.0.0/24"}],[{"subnet":"fd05::/64"}]],` +
		`"portMappings":[{"containerPort":5353,"hostIP":"192.0.2.1","hostPort":53,"protocol":"udp"}]}`
	for _, c := range calls {
		if got := toJSON(t, c.Conf["runtimeConfig"]); got != want {
			t.Errorf("%s runtimeConfig\n got %s\nwant %s", c.Command, got, want)
		}
		if c.Args != "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-p1;K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=uid-p1" ||
			c.IfName != "eth0" || c.ContainerID != "p1" || c.NetNS != a.NetNS {
			t.Errorf("%s environment: %+v", c.Command, c)
		}
	}
	if calls[1].Conf["prevResult"] == nil {
		t.Error("DEL without the result of ADD")
	}
}

func TestBadBandwidth(t *testing.T) {
	n := newNode(t)
	n.write("10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[`+n.fake("")+`]}`)
	for _, v := range []string{"fast", "-1", "0"} {
		a := n.pod("p1")
		a.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": v}
		if _, err := n.Add(t.Context(), a); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", v, err)
		}
	}
}
