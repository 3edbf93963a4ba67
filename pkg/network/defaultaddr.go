// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/cri-shim/cri-shim/pkg/sys/dump"
)

// giveWay readies a bridge that has addresses of subnets used before for the one of now, and returns the networks of
// the former: pods that have addresses of theirs keep their gateway. The bridge plugin takes a bridge only when the
// first IPv4 address on it is the gateway it is told of, so the others have to come after that. A bridge that is not
// there is left to the plugin. In IPv6 the plugin minds no addresses beside its own.
func giveWay(bridge string, subnets []netip.Prefix) (former []netip.Prefix, err error) {
	link, err := netlink.LinkByName(bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", bridge, err)
	}
	wanted, ok := gateway(subnets)
	if !ok || len(addrs) == 0 {
		return nil, nil
	}
	inOrder := prefixOf(addrs[0].IPNet) == wanted
	if !inOrder {
		err = netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(wanted)})
	}
	for _, a := range addrs {
		p := prefixOf(a.IPNet)
		if p == wanted {
			continue
		}
		former = append(former, p.Masked())
		if !inOrder && err == nil { // off and on again: that puts it last
			same := &netlink.Addr{IPNet: ipNet(p)}
			err = errors.Join(netlink.AddrDel(link, same), netlink.AddrAdd(link, same))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("order addresses of %s: %w", bridge, err)
	}
	return former, nil
}

// gateway is the address that host-local gives to the bridge: the first of the IPv4 subnet.
func gateway(subnets []netip.Prefix) (netip.Prefix, bool) {
	for _, n := range subnets {
		if n.Addr().Is4() {
			return netip.PrefixFrom(n.Addr().Next(), n.Bits()), true
		}
	}
	return netip.Prefix{}, false
}

func prefixOf(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
