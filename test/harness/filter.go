// SPDX-License-Identifier: Apache-2.0

package harness

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
)

// Rules lists the packet filter rules and chains of this daemon's pods: they
// have a pod's id in them, the hash of one in their chain's name, or an address
// of the daemon's own subnet. iptables of both kinds and nftables are asked.
func (d *Daemon) Rules() []string {
	ids, chains := map[string]bool{}, map[string]bool{}
	networks := d.networks()
	for _, id := range d.recordIDs() {
		for _, network := range networks {
			if !ids[id] {
				chains[hashOf(network + id)[:20]] = true // the shortest that plugins use of it, after CNI-DN-
			}
		}
		ids[id] = true
	}
	var out []string
	for _, command := range [][]string{
		{"nft", "list", "ruleset"}, {"iptables-nft-save"}, {"ip6tables-nft-save"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"},
	} {
		text, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			continue // not installed: nobody could have made rules with it
		}
		for line := range strings.Lines(string(text)) {
			if ids[longID.FindString(line)] || d.ownChain(line, chains) || d.ownAddress(line) {
				out = append(out, command[0]+": "+strings.TrimSpace(counters.ReplaceAllString(line, "")))
			}
		}
	}
	return out
}

func hashOf(text string) string {
	sum := sha512.Sum512([]byte(text))
	return hex.EncodeToString(sum[:])
}

// networks are the names of the networks that pods of the daemon may have been in.
func (d *Daemon) networks() []string {
	names := []string{d.Bridge, "cri-shim"}
	files, _ := filepath.Glob(filepath.Join(d.Dir, "cni", "*"))
	for _, file := range files {
		var conf struct{ Name string }
		data, _ := os.ReadFile(file)
		if json.Unmarshal(data, &conf) == nil && conf.Name != "" {
			names = append(names, conf.Name)
		}
	}
	return names
}

func (d *Daemon) ownChain(line string, chains map[string]bool) bool {
	for _, name := range podChain.FindAllString(line, -1) {
		if hash := name[strings.LastIndex(name, "-")+1:]; chains[hash[:20]] {
			return true
		}
	}
	return false
}

// ownAddress finds a pod's address, which is none of the subnet itself.
func (d *Daemon) ownAddress(line string) bool {
	subnet, err := netip.ParsePrefix(d.Subnet)
	if err != nil {
		panic(fmt.Sprintf("subnet of the test: %v", err))
	}
	for _, text := range address.FindAllString(line, -1) {
		if a, err := netip.ParseAddr(text); err == nil && subnet.Contains(a) && a != subnet.Addr() {
			return true
		}
	}
	return false
}
