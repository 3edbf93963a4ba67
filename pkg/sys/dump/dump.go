// SPDX-License-Identifier: Apache-2.0

// Package dump lists the kernel's network tables whole.
//
// A dump by netlink comes in several messages. A change between two of them can make the kernel leave entries out or
// give them twice, and on a node with many pods something changes all the time. Links, addresses and routes that were
// dumped so carry NLM_F_DUMP_INTR (since Linux 3.1; netlink(7)), for nftables the generation of the ruleset differs
// after the dump. Such a dump is taken again.
//
// Invariant: what is returned without an error was true at one moment.
//
// It does not watch tables, and changes none.
package dump

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// attempts is how often a dump is taken at most: a table that changes in each of them changes faster than pods can.
const attempts = 100

// Whole takes a dump of links, addresses, routes or rules. list is a call of the netlink package. It returns
// errdefs.ErrUnavailable when the table changed during each of 100 dumps.
func Whole[T any](list func() ([]T, error)) ([]T, error) {
	for range attempts {
		if out, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, fmt.Errorf("dump changed in each of %d attempts: %w", attempts, errdefs.ErrUnavailable)
}

// Ruleset takes dumps of nftables: all that list lists is of one generation of the ruleset. It returns
// errdefs.ErrUnavailable when there was a new generation during each of 100 calls of list, and errors.ErrUnsupported when
// the kernel has no nftables.
func Ruleset[T any](list func() (T, error)) (T, error) {
	var none T
	before, err := generation()
	for range attempts {
		if err != nil {
			return none, err
		}
		out, failed := list() // which may be that what one dump has is no longer there for the next
		var after uint32
		if after, err = generation(); err == nil && after == before {
			return out, failed
		}
		before = after
	}
	return none, fmt.Errorf("ruleset changed in each of %d attempts: %w", attempts, errdefs.ErrUnavailable)
}

// generation is the number that each transaction of nftables in this network namespace raises (NFT_MSG_GETGEN, Linux 3.14).
func generation() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	messages, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) { // no such subsystem; no netfilter at all
		err = fmt.Errorf("%w: %w", err, errors.ErrUnsupported)
	}
	if err != nil {
		return 0, fmt.Errorf("get generation of nftables: %w", err)
	}
	for _, m := range messages {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("parse generation of nftables: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_GEN_ID && len(a.Value) == 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, errors.New("get generation of nftables: the kernel's answer has none")
}
