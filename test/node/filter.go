// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	counters = regexp.MustCompile(`counter packets \d+ bytes \d+|\[\d+:\d+\]|# handle \d+`)
	podChain = regexp.MustCompile(`CNI-(?:DN-|SN-)?[0-9a-f]{20,}`)
	address  = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b`)

	// What plugins make once and keep, and how what they make for one pod looks.
	once    = regexp.MustCompile(`CNI-HOSTPORT-(DNAT|SETMARK|MASQ)|^(chain (hostip_)?hostports(_all)? \{|(fib daddr type local )?jump (hostip_)?hostports(_all)?)$`)
	likePod = regexp.MustCompile(`CNI-(DN|SN|[0-9a-f])|@?hostports|cni-hostport|id: "[0-9a-f]|dnat to|DNAT|[0-9a-f]{64}`)
)

// savers print packet filters: each the rules of its own kind. Which are installed differs.
var savers = [][]string{
	{"nft", "list", "ruleset"}, {"iptables-nft-save"}, {"ip6tables-nft-save"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"},
}

// rules are the packet filter rules and chains of the node's pods: they have a pod's id in them, the hash of one in their
// chain's name, or an address of the node's own subnet; alone, also those that look like a pod's.
func (n *Node) rules() ([]Item, error) {
	owns, err := n.ruleOwner()
	if err != nil {
		return nil, err
	}
	var out []Item
	for _, command := range savers {
		args := n.inside(command...)
		text, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			continue // not installed, or its kind is not in the kernel: nobody could have made rules with it
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(counters.ReplaceAllString(line, ""))
			alike := n.Alone && !strings.HasPrefix(line, "#") && likePod.MatchString(once.ReplaceAllString(line, ""))
			if alike || owns(line) {
				out = append(out, Item{Name: command[0] + ": " + line})
			}
		}
	}
	return out, nil
}

// ruleOwner returns what tells the node's rules from those of others.
func (n *Node) ruleOwner() (func(line string) bool, error) {
	ids, chains := n.ids(), map[string]bool{}
	for _, network := range n.networks() {
		for id := range ids {
			chains[hashOf(network + id)[:20]] = true // the shortest that plugins use of it, after CNI-DN-
		}
	}
	var subnet netip.Prefix
	if n.Network.Subnet != "" {
		var err error
		if subnet, err = netip.ParsePrefix(n.Network.Subnet); err != nil {
			return nil, fmt.Errorf("subnet of the node: %w", err)
		}
	}
	return func(line string) bool {
		for _, name := range podChain.FindAllString(line, -1) {
			if hash := name[strings.LastIndex(name, "-")+1:]; chains[hash[:20]] {
				return true
			}
		}
		for _, text := range address.FindAllString(line, -1) { // a pod's, which is none of the subnet itself
			if a, err := netip.ParseAddr(text); err == nil && subnet.Contains(a) && a != subnet.Addr() {
				return true
			}
		}
		return ids[longID.FindString(line)]
	}, nil
}

func hashOf(text string) string {
	sum := sha512.Sum512([]byte(text))
	return hex.EncodeToString(sum[:])
}

// networks are the names of the networks that pods of the node may have been in.
func (n *Node) networks() []string {
	names := []string{n.Network.Bridge, "cri-shim"}
	files, _ := filepath.Glob(filepath.Join(n.Dir, "*", "*.conf*"))
	for _, file := range files {
		var conf struct{ Name string }
		data, _ := os.ReadFile(file) // gone: no network any more
		if json.Unmarshal(data, &conf) == nil && conf.Name != "" {
			names = append(names, conf.Name)
		}
	}
	return names
}
