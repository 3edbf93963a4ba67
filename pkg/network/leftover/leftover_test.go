// SPDX-License-Identifier: Apache-2.0

package leftover_test

import (
	"crypto/sha512"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/network/leftover"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/pkg/sys/program"
)

// ruleset is what two pods have in nftables, by the names that the plugins give.
func ruleset(network, pod string) string {
	hash := func(text string) string { return fmt.Sprintf("%x", sha512.Sum512([]byte(text))) }
	comment := hash(network)[:16] + "-" + hash("eth0:" + pod)[:16] + " net: " + network
	return strings.NewReplacer("CHAIN", "CNI-"+hash(network + pod)[:24], "COMMENT", comment, "SPOOF", pod+"-eth0").Replace(`
add table ip nat
add chain ip nat POSTROUTING { type nat hook postrouting priority 100 ; }
add chain ip nat CHAIN
add rule ip nat CHAIN ip daddr 10.77.0.0/16 accept
add rule ip nat POSTROUTING ip saddr 10.77.0.5 jump CHAIN
add table inet cni_plugins_masquerade
add chain inet cni_plugins_masquerade masq_checks
add rule inet cni_plugins_masquerade masq_checks ip saddr 10.77.0.5 masquerade comment "COMMENT"
add table bridge nat
add chain bridge nat cni-br-iface-SPOOF
add chain bridge nat cni-br-iface-SPOOF-mac
add chain bridge nat PREROUTING
add rule bridge nat PREROUTING iifname "veth" jump cni-br-iface-SPOOF comment "macspoofchk-SPOOF"
add rule bridge nat cni-br-iface-SPOOF jump cni-br-iface-SPOOF-mac
`)
}

// TestRemove takes one pod's rules out of two pods'. TestNoRuleIsLeft of pkg/network has them from the plugins themselves.
func TestRemove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("packet filters need root")
	}
	dir := t.TempDir()
	for _, name := range []string{"iptables", "iptables-restore", "ip6tables", "ip6tables-restore"} {
		program, rest, _ := strings.Cut(name, "-")
		path, err := exec.LookPath(strings.TrimSuffix(program+"-nft-"+rest, "-"))
		if err != nil {
			t.Skip("not installed: ", err)
		}
		must(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ns := filepath.Join(dir, "ns")
	must(t, netns.New(ns))
	t.Cleanup(func() { must(t, netns.Remove(ns)) })
	must(t, netns.In(ns, func() error {
		rules := func(more ...string) string {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(strings.Join(more, ""))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("nft: %v: %s", err, out)
			}
			out, err := exec.Command("nft", "list", "ruleset").Output()
			if err != nil {
				t.Error(err)
			}
			return string(out)
		}
		lock, err := program.NewLocks(filepath.Join(dir, "locks")).Take(t.Context(), "pod", time.Minute)
		if err != nil {
			return err
		}
		defer lock.Release()
		want := rules(ruleset("net", "other"))
		if all := rules(ruleset("net", "pod")); all == want {
			t.Error("no rules made")
		}
		a := leftover.Attachment{Network: "net", Pod: "pod", Interface: "eth0"}
		for _, there := range []bool{true, false} {
			if found, err := leftover.Remove(t.Context(), lock, a); err != nil || found != there {
				t.Errorf("found %t, %v; want %t", found, err, there)
			}
			if got := rules(); got != want {
				t.Errorf("left:\n%s\nwant:\n%s", got, want)
			}
		}
		return nil
	}))
}

// TestFailedRemoval: that the rules can't be removed is not that there are none.
func TestFailedRemoval(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("packet filters need root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("not installed: ", err)
	}
	dir := t.TempDir()
	for name, script := range map[string]string{
		"iptables":         `for chain; do :; done; echo "-N $chain"`,
		"iptables-restore": `echo "table is busy" >&2; exit 1`,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755)) //nolint:gosec // a program
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ns := filepath.Join(dir, "ns")
	must(t, netns.New(ns))
	t.Cleanup(func() { must(t, netns.Remove(ns)) })
	must(t, netns.In(ns, func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset("net", "pod"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		lock, err := program.NewLocks(filepath.Join(dir, "locks")).Take(t.Context(), "pod", time.Minute)
		if err != nil {
			return err
		}
		defer lock.Release()
		found, err := leftover.Remove(t.Context(), lock, leftover.Attachment{Network: "net", Pod: "pod", Interface: "eth0"})
		if want := "iptables-restore: exit code 1: table is busy"; !found || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("found %t, %v; want %q", found, err, want)
		}
		return nil
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
