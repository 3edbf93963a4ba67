// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

func withDefault(o *network.Options) {
	o.DefaultNetwork = true
	o.Default = network.DefaultNetwork{Bridge: "test-cri0", Table: "test-cri"}
}

func tables(t *testing.T, name string) int {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	all, err := c.ListTables()
	must(t, err)
	found := 0
	for _, tab := range all {
		if tab.Name == name {
			found++
		}
	}
	return found
}

func TestDefaultNetwork(t *testing.T) {
	needPlugins(t)
	n := newNode(t, withDefault)
	t.Cleanup(func() { must(t, n.RemoveDefaultNetwork(t.Context())) })
	must(t, n.Ready())
	must(t, n.Status(t.Context()))
	plain, mapped := n.pod("plain"), n.pod("mapped")
	mapped.PortMappings = []*cri.PortMapping{{HostPort: 18081, ContainerPort: 80}}
	for _, a := range []network.Attachment{plain, mapped} {
		res, err := n.Add(t.Context(), a)
		must(t, err)
		if !strings.HasPrefix(res.IPs[0], "10.88.") {
			t.Errorf("IPs %v", res.IPs)
		}
		targets := []string{net.JoinHostPort(res.IPs[0], "80")}
		if a.PodID == "mapped" {
			targets = append(targets, "192.0.2.1:18081")
		}
		reachable(t, a.NetNS, targets...)
	}
	if tables(t, "test-cri") != 1 {
		t.Error("no masquerading")
	}
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Errorf("forwarding %q %v", b, err)
	}
	c, err := nftables.New()
	must(t, err)
	c.FlushRuleset() // a firewall's reload does that
	must(t, c.Flush())
	third := n.pod("third")
	_, err = n.Add(t.Context(), third)
	must(t, err)
	if tables(t, "test-cri") != 1 {
		t.Error("masquerading did not come back")
	}
	n.restart() // the bridge's own route is no collision
	_, err = n.Add(t.Context(), n.pod("fourth"))
	must(t, err)
	for _, id := range []string{"plain", "mapped", "third", "fourth"} {
		must(t, n.Del(t.Context(), network.Attachment{PodID: id}))
	}
	n.noLeaks()
	must(t, n.RemoveDefaultNetwork(t.Context()))
	must(t, n.RemoveDefaultNetwork(t.Context()))
	if _, err := netlink.LinkByName("test-cri0"); err == nil || tables(t, "test-cri") != 0 {
		t.Error("default network left its bridge or table")
	}
	if _, err := os.Stat(n.cache + "/ipam"); err == nil {
		t.Error("default network left its address book")
	}
}

func TestMasqueradeRule(t *testing.T) {
	n := newNode(t, withDefault, func(o *network.Options) { o.Default.Subnets = []string{"10.66.0.0/16", "fd66::/64"} })
	t.Cleanup(func() { must(t, n.RemoveDefaultNetwork(t.Context())) })
	must(t, network.PrepareHost(t.Context(), n.Service))
	must(t, network.PrepareHost(t.Context(), n.Service))
	if tables(t, "test-cri") != 2 {
		t.Errorf("tables: %d, want one for each family", tables(t, "test-cri"))
	}
}

func TestDefaultNetworkAvoidsRoutes(t *testing.T) {
	uplink, err := netlink.LinkByName("uplink")
	must(t, err)
	for _, tc := range []struct{ route, want string }{
		{"", "10.88.0.0/16"},
		{"10.88.5.0/24", "10.89.0.0/16"},
		{"10.0.0.0/8", "172.30.0.0/16"},
	} {
		n := newNode(t, withDefault)
		if tc.route != "" {
			_, dst, err := net.ParseCIDR(tc.route)
			must(t, err)
			r := &netlink.Route{LinkIndex: uplink.Attrs().Index, Dst: dst}
			must(t, netlink.RouteAdd(r))
			defer func() { _ = netlink.RouteDel(r) }()
		}
		_ = n.Ready() // plugins need not be there for this
		if n.logged("subnets="+tc.want) != 1 {
			t.Errorf("route %s: want %s, log:\n%s", tc.route, tc.want, n.log)
		}
	}
}

func TestDefaultNetworkGivesWay(t *testing.T) {
	n := newNode(t, withDefault)
	must(t, n.SetPodCIDRs([]string{"10.44.0.0/24"}))
	if err := n.Ready(); err != nil && !strings.Contains(err.Error(), "bridge") {
		t.Error(err)
	}
	if n.logged("subnets=10.44.0.0/24") != 1 {
		t.Errorf("the kubelet's CIDR is not used:\n%s", n.log)
	}
	n.write("10-x.conflist", `{"broken`)
	wantErr(t, n.Ready(), "no CNI configuration in", "10-x.conflist") // somebody is about to configure: don't guess
	n.write("10-x.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[`+n.fake("")+`]}`)
	a := n.pod("p1")
	res, err := n.Add(t.Context(), a)
	must(t, err)
	if res.IPs[0] != "203.0.113.7" {
		t.Errorf("IPs %v", res.IPs)
	}
	must(t, n.Del(t.Context(), a))
	if err := n.SetPodCIDRs([]string{"nonsense"}); err == nil {
		t.Error("nonsense taken for a CIDR")
	}
}

// TestPodCIDRsAreReplaced: what cuts off a change leaves the ranges of before, also for the next daemon.
func TestPodCIDRsAreReplaced(t *testing.T) {
	n := newNode(t)
	file, old := n.cache+"/podcidrs.json", []string{"10.44.0.0/24"}
	must(t, n.SetPodCIDRs(old))
	must(t, os.Link(file, n.cache+"/linked"))
	must(t, n.SetPodCIDRs([]string{"10.45.0.0/24"}))
	if raw, err := os.ReadFile(n.cache + "/linked"); err != nil || string(raw) != `["10.44.0.0/24"]` {
		t.Errorf("the file was written to in place: %q, %v", raw, err)
	}
	must(t, n.SetPodCIDRs(old))
	must(t, os.WriteFile(file+".next", []byte(`["10.`), 0o600)) // a kill left it
	n.restart()
	must(t, n.SetPodCIDRs([]string{"10.45.0.0/24", "fd45::/64"}))
	must(t, n.SetPodCIDRs(old))
	must(t, os.Mkdir(file+".next", 0o700)) // what can't be written, as with a full disk
	wantErr(t, n.SetPodCIDRs([]string{"10.46.0.0/24"}), "set pod CIDRs")
	for range 2 {
		if got := n.PodCIDRs(); !slices.Equal(got, old) {
			t.Errorf("ranges %q, want %q", got, old)
		}
		n.restart()
	}
	must(t, os.WriteFile(file, nil, 0o600))
	n.restart()
	if got := n.PodCIDRs(); len(got) > 0 || n.logged(`level=ERROR msg="pod CIDRs lost`) != 1 {
		t.Errorf("ranges %q after a loss", got)
	}
}

// TestMasqueradingOfPackets has a pod talk to a machine outside, which must see the host's address, and to its neighbour
// on the bridge, which must see the pod's.
func TestMasqueradingOfPackets(t *testing.T) {
	needPlugins(t)
	n := newNode(t, withDefault, func(o *network.Options) { o.Default.Subnets = []string{"10.66.0.0/16", "fd66::/64"} })
	t.Cleanup(func() { must(t, n.RemoveDefaultNetwork(t.Context())) })
	outside := n.ns + "/cri-outside"
	must(t, netns.New(outside))
	wire(t, outside, "198.51.100.1/24", "198.51.100.2/24", "fd51::1/64", "fd51::2/64")
	a, b := n.pod("a"), n.pod("b")
	_, err := n.Add(t.Context(), a)
	must(t, err)
	neighbour, err := n.Add(t.Context(), b)
	must(t, err)
	for _, tc := range []struct{ where, addr, seen string }{
		{outside, "198.51.100.2", "198.51.100.1"},
		{outside, "fd51::2", "fd51::1"},
		{b.NetNS, neighbour.IPs[0], "10.66."},
		{b.NetNS, neighbour.IPs[1], "fd66::"},
	} {
		if got := seenFrom(t, a.NetNS, tc.where, tc.addr); !strings.HasPrefix(got, tc.seen) {
			t.Errorf("%s saw %s, want %s", tc.addr, got, tc.seen)
		}
	}
	must(t, errors.Join(n.Del(t.Context(), a), n.Del(t.Context(), b)))
	n.noLeaks()
}

// wire connects the host with a namespace; the addresses come in pairs, the host's first.
func wire(t *testing.T, path string, addrs ...string) {
	t.Helper()
	near := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink-w"}, PeerName: "uplink-x"}
	must(t, netlink.LinkAdd(near))
	t.Cleanup(func() { _ = netlink.LinkDel(near) })
	far, err := netlink.LinkByName("uplink-x")
	must(t, err)
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, netlink.LinkSetNsFd(far, int(f.Fd())))
	set := func(name string, parity int) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for i := parity; i < len(addrs); i += 2 {
			addr, err := netlink.ParseAddr(addrs[i])
			if err != nil {
				return err
			}
			addr.Flags = 2 // IFA_F_NODAD: usable at once
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}
	must(t, set("uplink-w", 0))
	must(t, netns.In(path, func() error { return set("uplink-x", 1) }))
}

// seenFrom connects from one namespace to another and returns the address that the other saw.
func seenFrom(t *testing.T, from, to, addr string) string {
	t.Helper()
	var l net.Listener
	must(t, netns.In(to, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	}))
	defer l.Close()
	seen := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			seen <- err.Error()
			return
		}
		defer c.Close()
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		seen <- host
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := netns.Dial(ctx, from, "tcp", l.Addr().String())
	if err != nil {
		t.Errorf("reach %s: %v", addr, err)
		return ""
	}
	defer c.Close()
	return <-seen
}
