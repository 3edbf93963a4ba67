// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// ensureMasquerade makes one rule per subnet, in a table of our own so that no other rules are touched: what a pod
// sends out of its subnet, multicast excepted, leaves with the host's address. It does nothing when the table is there
// with as many rules; the table is replaced in one transaction.
func ensureMasquerade(table string, subnets []netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	byFamily := map[nftables.TableFamily][]netip.Prefix{}
	for _, n := range subnets {
		byFamily[family(n)] = append(byFamily[family(n)], n)
	}
	change := false
	for fam, nets := range byFamily {
		if present(c, table, fam, nets) {
			continue
		}
		change = true
		t := &nftables.Table{Family: fam, Name: table}
		c.AddTable(t) // so that the removal can't miss it
		c.DelTable(t)
		c.AddTable(t)
		accept := nftables.ChainPolicyAccept
		chain := c.AddChain(&nftables.Chain{
			Name: chainName, Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &accept,
		})
		for _, n := range nets {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: masquerade(n), UserData: []byte(n.String())})
		}
	}
	if !change {
		return nil
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install masquerading in nftables table %s: %w", table, err)
	}
	return nil
}

const chainName = "postrouting"

// present compares by what is written in the rules' user data; a rule set that was flushed is not present.
func present(c *nftables.Conn, table string, fam nftables.TableFamily, nets []netip.Prefix) bool {
	t := &nftables.Table{Family: fam, Name: table}
	rules, err := c.GetRules(t, &nftables.Chain{Name: chainName, Table: t})
	if err != nil || len(rules) != len(nets) {
		return false
	}
	for i, r := range rules {
		if string(r.UserData) != nets[i].String() {
			return false
		}
	}
	return true
}

func removeMasquerade(table string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, fam := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		t := &nftables.Table{Family: fam, Name: table}
		c.AddTable(t)
		c.DelTable(t)
		// A kernel that knows no tables of the family holds none.
		if err := c.Flush(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("remove nftables table %s: %w", table, err)
		}
	}
	return nil
}

func family(n netip.Prefix) nftables.TableFamily {
	if n.Addr().Is6() {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// masquerade is: saddr in n, daddr not in n, daddr not multicast, masquerade.
func masquerade(n netip.Prefix) []expr.Any {
	source, dest, size := uint32(12), uint32(16), uint32(4) // offsets in the IP header
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	if n.Addr().Is6() {
		source, dest, size = 8, 24, 16
		multicast = netip.MustParsePrefix("ff00::/8")
	}
	var out []expr.Any
	match := func(offset uint32, op expr.CmpOp, net netip.Prefix) {
		out = append(out,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask(net), Xor: make([]byte, size)},
			&expr.Cmp{Op: op, Register: 1, Data: net.Addr().AsSlice()})
	}
	match(source, expr.CmpOpEq, n)
	match(dest, expr.CmpOpNeq, n)
	match(dest, expr.CmpOpNeq, multicast)
	return append(out, &expr.Masq{FullyRandom: true})
}

func mask(n netip.Prefix) []byte {
	out := make([]byte, n.Addr().BitLen()/8)
	for i := range out {
		bits := min(max(n.Bits()-8*i, 0), 8)
		out[i] = byte(0xff) << (8 - bits)
	}
	return out
}
