// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/cri-shim/cri-shim/pkg/sys/dump"
)

// DefaultNetwork names what the generated network consists of; the zero value means the defaults given here.
type DefaultNetwork struct {
	Name   string // of the network: "cri-shim"
	Bridge string // "cri0"
	Table  string // of nftables, in the families ip and ip6: "cri-shim"
	// Subnets of the pods, IPv4 and IPv6 (both for dual stack), used as they are. Empty: one IPv4 subnet, 10.88.0.0/16
	// or the first of a short list that no route of the host overlaps.
	Subnets []string
}

func (d DefaultNetwork) withDefaults() DefaultNetwork {
	for field, value := range map[*string]string{&d.Name: "cri-shim", &d.Bridge: "cri0", &d.Table: "cri-shim"} {
		if *field == "" {
			*field = value
		}
	}
	return d
}

// defaultState is what has been made of the default network so far.
type defaultState struct {
	picked  []string // chosen subnets, so that the choice holds
	subnets []string // that the lists are for
	list    *libcni.NetworkConfigList
	bare    *libcni.NetworkConfigList // without portmap: two plugin runs less for pods without host ports
	missing string                    // why there is no masquerading, as the log has it
}

// listFor is list for an ADD: when that is the default network, the host side of it is made ready.
func (s *Service) listFor(ctx context.Context, a Attachment) (*libcni.NetworkConfigList, error) {
	c := s.current()
	if c.list != nil {
		return c.list, nil
	}
	if !s.o.DefaultNetwork || !c.empty {
		return nil, c.err
	}
	list, err := s.defaultList(len(portMappings(a.PortMappings)) > 0)
	if err != nil {
		return nil, err
	}
	return list, s.prepareHost(ctx)
}

// defaultList generates the default network's configuration, again when the subnets have changed.
func (s *Service) defaultList(ports bool) (*libcni.NetworkConfigList, error) {
	s.defMu.Lock()
	defer s.defMu.Unlock()
	subnets, err := s.subnetsLocked()
	if err != nil {
		return nil, err
	}
	if s.def.list == nil || !slices.Equal(subnets, s.def.subnets) {
		bridge := s.bridgePlugin(subnets)
		portmap := map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}}
		full, err := s.generate(bridge, portmap)
		if err != nil {
			return nil, err
		}
		bare, err := s.generate(bridge)
		if err != nil {
			return nil, err
		}
		s.def.list, s.def.bare, s.def.subnets = full, bare, subnets
		s.log.Info("default network in use", "bridge", s.o.Default.Bridge, "subnets", strings.Join(subnets, ","))
	}
	if ports {
		return s.def.list, nil
	}
	return s.def.bare, nil
}

func (s *Service) generate(plugins ...map[string]any) (*libcni.NetworkConfigList, error) {
	return parseList(map[string]any{"cniVersion": "1.0.0", "name": s.o.Default.Name, "plugins": plugins})
}

// bridgePlugin leaves masquerading to the node-wide rule: done by the plugin it would cost each pod several runs of
// iptables, at ADD and even more at DEL.
func (s *Service) bridgePlugin(subnets []string) map[string]any {
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, n := range subnets {
		ranges = append(ranges, []map[string]string{{"subnet": n}})
		if strings.Contains(n, ":") {
			routes = append(routes, map[string]string{"dst": "::/0"})
		} else {
			routes = append(routes, map[string]string{"dst": "0.0.0.0/0"})
		}
	}
	return map[string]any{
		"type": "bridge", "bridge": s.o.Default.Bridge, "isGateway": true, "ipMasq": false, "hairpinMode": true,
		"ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": s.path("ipam")},
	}
}

// prepareHost turns forwarding on, readies the bridge for a change of the subnets, and installs the masquerading rule
// unless it is there. Pods reach each other and the
// host without it, so a kernel without nftables is a warning, not the end of every pod.
func (s *Service) prepareHost(ctx context.Context) error {
	s.defMu.Lock()
	defer s.defMu.Unlock()
	subnets, err := prefixes(s.def.subnets)
	if err != nil {
		return err
	}
	for _, n := range subnets {
		if err := enableForwarding(n.Addr().Is6()); err != nil {
			return err
		}
	}
	former, err := giveWay(s.o.Default.Bridge, subnets)
	if err != nil {
		return err
	}
	s.sayMasquerading(ctx, ensureMasquerade(s.o.Default.Table, append(subnets, former...)))
	return nil
}

// sayMasquerading warns of what is missing, once and not once per pod.
func (s *Service) sayMasquerading(ctx context.Context, err error) {
	missing := ""
	if err != nil {
		missing = err.Error()
	}
	if missing != s.def.missing && err != nil {
		s.log.WarnContext(ctx, "no masquerading: pods of the default network reach this node only", "err", err)
	}
	s.def.missing = missing
}

// RemoveDefaultNetwork removes the bridge, the masquerading rule and the address book of the default network. It is
// idempotent. Pods that are still attached lose their network.
func (s *Service) RemoveDefaultNetwork(context.Context) error {
	s.defMu.Lock()
	defer s.defMu.Unlock()
	var errs []error
	if link, err := netlink.LinkByName(s.o.Default.Bridge); err == nil && link.Type() == "bridge" {
		if err := netlink.LinkDel(link); err != nil {
			errs = append(errs, fmt.Errorf("remove bridge %s: %w", s.o.Default.Bridge, err))
		}
	}
	if err := removeMasquerade(s.o.Default.Table); err != nil {
		errs = append(errs, err)
	}
	if err := os.RemoveAll(s.path("ipam")); err != nil {
		errs = append(errs, fmt.Errorf("remove address book: %w", err))
	}
	s.def = defaultState{}
	return errors.Join(errs...)
}

// subnetsLocked: the node's pod CIDRs when the kubelet gave them, else the configured subnets, else our own choice.
func (s *Service) subnetsLocked() ([]string, error) {
	if cidrs := s.PodCIDRs(); len(cidrs) > 0 {
		return cidrs, nil
	}
	if len(s.o.Default.Subnets) > 0 {
		_, err := prefixes(s.o.Default.Subnets)
		return s.o.Default.Subnets, err
	}
	if s.def.picked == nil {
		n, err := pickSubnet(s.o.Default.Bridge)
		if err != nil {
			return nil, err
		}
		s.def.picked = []string{n.String()}
	}
	return s.def.picked, nil
}

// pickSubnet keeps the subnet that the bridge already has, and else takes the first candidate that no route overlaps.
func pickSubnet(bridge string) (netip.Prefix, error) {
	candidates := []string{"10.88.0.0/16", "10.89.0.0/16", "172.30.0.0/16", "10.214.0.0/16", "192.168.208.0/20"}
	own := -1
	if link, err := netlink.LinkByName(bridge); err == nil {
		own = link.Attrs().Index
	}
	routes, err := hostRoutes()
	if err != nil {
		return netip.Prefix{}, err
	}
	var free []netip.Prefix
	for _, c := range candidates {
		n := netip.MustParsePrefix(c)
		taken := false
		for _, r := range routes {
			if !r.dst.Overlaps(n) {
				continue
			}
			if r.link == own && r.dst == n {
				return n, nil
			}
			taken = taken || r.link != own
		}
		if !taken {
			free = append(free, n)
		}
	}
	if len(free) == 0 {
		return netip.Prefix{}, fmt.Errorf("default network: routes of the host overlap all of %s; configure a subnet: %w",
			strings.Join(candidates, ", "), errdefs.ErrUnavailable)
	}
	return free[0], nil
}

type hostRoute struct {
	dst  netip.Prefix
	link int
}

// hostRoutes lists the IPv4 routes of all tables but the default ones, which overlap everything.
func hostRoutes() ([]hostRoute, error) {
	routes, err := dump.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE) // table 0: all
	})
	if err != nil {
		return nil, fmt.Errorf("list routes of the host: %w", err)
	}
	var out []hostRoute
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		if ok && ones > 0 {
			out = append(out, hostRoute{netip.PrefixFrom(addr.Unmap(), ones).Masked(), r.LinkIndex})
		}
	}
	return out, nil
}

func enableForwarding(v6 bool) error {
	path := "/proc/sys/net/ipv4/ip_forward"
	if v6 {
		path = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == "1" {
		return nil
	}
	if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
		return fmt.Errorf("turn on forwarding: %w", err)
	}
	return nil
}

func prefixes(cidrs []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, c := range cidrs {
		n, err := netip.ParsePrefix(c)
		if err != nil {
			return nil, fmt.Errorf("subnet %q: %w: %w", c, err, errdefs.ErrInvalidArgument)
		}
		out = append(out, n.Masked())
	}
	return out, nil
}
