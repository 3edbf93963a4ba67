// SPDX-License-Identifier: Apache-2.0

package leftover

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"

	"github.com/cri-shim/cri-shim/pkg/sys/dump"
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
	left, err := dump.Ruleset(func() (rest, error) {
		masquerading, err := restIn(c, nftables.TableFamilyINet, "cni_plugins_masquerade", func(comment string) bool {
			return strings.HasPrefix(comment, masquerade)
		}, nil)
		if err != nil {
			return rest{}, err
		}
		spoofing, err := restIn(c, nftables.TableFamilyBridge, "nat", func(comment string) bool {
			return comment == "macspoofchk-"+spoof
		}, []string{"cni-br-iface-" + spoof, "cni-br-iface-" + spoof + "-mac"})
		return rest{slices.Concat(masquerading.rules, spoofing.rules), spoofing.chains}, err
	})
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("list nftables rules: %w", err)
	case len(left.rules)+len(left.chains) == 0:
		return false, nil
	}
	for _, r := range left.rules {
		if err := c.DelRule(r); err != nil {
			return true, fmt.Errorf("remove nftables rule: %w", err)
		}
	}
	for _, chain := range left.chains { // all are emptied first: one has a jump to another
		c.FlushChain(chain)
	}
	for _, chain := range left.chains {
		c.DelChain(chain)
	}
	if err := c.Flush(); err != nil {
		return true, fmt.Errorf("remove nftables rules: %w", err)
	}
	return true, nil
}

// rest is what is left of a pod in a table.
type rest struct {
	rules  []*nftables.Rule
	chains []*nftables.Chain
}

// restIn finds the rules of a table whose comment is the pod's, and chains by name. A family that can't be listed has
// none.
func restIn(c *nftables.Conn, family nftables.TableFamily, table string, own func(comment string) bool, chains []string) (rest, error) {
	all, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return rest{}, nil //nolint:nilerr // a kernel without the family
	}
	var out rest
	for _, chain := range all {
		if chain.Table.Name != table {
			continue
		}
		if slices.Contains(chains, chain.Name) {
			out.chains = append(out.chains, chain)
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return rest{}, fmt.Errorf("list rules of chain %s %s: %w", table, chain.Name, err)
		}
		for _, r := range rules {
			if comment, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && own(comment) {
				out.rules = append(out.rules, r)
			}
		}
	}
	return out, nil
}
