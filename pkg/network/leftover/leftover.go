// SPDX-License-Identifier: Apache-2.0

// Package leftover removes what CNI plugins left of a pod in the packet filter.
//
// Rules of a pod stay there when the plugin that made them was cut off, when a DEL was, and when it finds no interface or no
// namespace, or a pod that changed its addresses: the bridge and ptp plugins (containernetworking/plugins up to 1.9 at
// least) remove the masquerading of the addresses that they find. What they made is known by the names that they derive
// from the network's name and the pod's id.
//
// Invariant: nothing is removed whose name or comment is not derived from the attachment that it is asked for.
//
// It does not care for port mappings: portmap finds its own by itself. It runs no plugin and keeps no record.
package leftover

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/nftables"

	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// Attachment is what the plugins derive names from.
type Attachment struct {
	Network   string // its name in the configuration
	Pod       string // the container id that plugins see
	Interface string // of the pod
}

// Remove removes what is left of one attachment, and tells whether there was anything. It is idempotent, and runs no
// program where there is nothing, unless the kernel's old tables are in use. lock is the pod's, for the programs.
func Remove(ctx context.Context, lock *program.Lock, a Attachment) (found bool, err error) {
	found, err = removeNFTables(a)
	chain := masqueradeChain(a)
	for _, f := range []struct {
		program, tables string
		family          nftables.TableFamily
	}{
		{"iptables", "/proc/net/ip_tables_names", nftables.TableFamilyIPv4},
		{"ip6tables", "/proc/net/ip6_tables_names", nftables.TableFamilyIPv6},
	} {
		if hasChain(f.family, chain) || hasNAT(f.tables) {
			one, failed := removeMasqueradeChain(ctx, lock, f.program, chain)
			found, err = found || one, errors.Join(err, failed)
		}
	}
	if err != nil {
		return found, fmt.Errorf("remove packet filter rules of pod %s: %w", a.Pod, err)
	}
	return found, nil
}

// masqueradeChain is the name that the plugins give a pod's chain: 28 characters (pkg/utils of containernetworking/plugins).
func masqueradeChain(a Attachment) string { return "CNI-" + hash(a.Network + a.Pod)[:24] }

func hash(text string) string {
	sum := sha512.Sum512([]byte(text))
	return hex.EncodeToString(sum[:])
}
