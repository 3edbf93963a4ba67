// SPDX-License-Identifier: Apache-2.0

package leftover

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
)

// removeNFTables removes what the plugins made of a pod in nftables: rules for masquerading, which carry a hash in
// their comment, and the chains and rules of the bridge plugin's check of MAC addresses, which carry the id.
func removeNFTables(a Attachment) (found bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	masquerade := hash(a.Network)[:16] + "-" + hash(a.Interface + ":" + a.Pod)[:16]
	spoof := a.Pod + "-" + a.Interface
	found = leftIn(c, nftables.TableFamilyINet, "cni_plugins_masquerade", func(comment string) bool {
		return strings.HasPrefix(comment, masquerade)
	}, nil)
	found = leftIn(c, nftables.TableFamilyBridge, "nat", func(comment string) bool {
		return comment == "macspoofchk-"+spoof
	}, []string{"cni-br-iface-" + spoof, "cni-br-iface-" + spoof + "-mac"}) || found
	if !found {
		return false, nil
	}
	if err := c.Flush(); err != nil {
		return true, fmt.Errorf("remove nftables rules: %w", err)
	}
	return true, nil
}

// leftIn prepares the removal of the rules of a table whose comment is the pod's, and of chains by name. A table or
// family that can't be listed has none.
func leftIn(c *nftables.Conn, family nftables.TableFamily, table string, own func(comment string) bool, chains []string) (found bool) {
	all, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return false
	}
	var whole []*nftables.Chain
	for _, chain := range all {
		if chain.Table.Name != table {
			continue
		}
		if slices.Contains(chains, chain.Name) {
			whole = append(whole, chain)
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			continue
		}
		for _, r := range rules {
			if comment, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && own(comment) {
				found = c.DelRule(r) == nil || found
			}
		}
	}
	for _, chain := range whole { // all are emptied first: one has a jump to another
		c.FlushChain(chain)
	}
	for _, chain := range whole {
		c.DelChain(chain)
	}
	return found || len(whole) > 0
}
