// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/sys/dump"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
)

// filters are the ways to the packet filter that the bridge plugin knows: the word in its configuration and the iptables
// that it finds.
var filters = []struct{ name, backend, iptables string }{
	{"iptables on nftables", "iptables", "nft"},
	{"old iptables", "iptables", "legacy"},
	{"nftables", "nftables", "nft"},
}

// useIPTables makes one of the two the iptables of this process and its plugins.
func useIPTables(t *testing.T, which string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, part := range []string{"", "-restore", "-save"} {
			path, err := exec.LookPath(name + "-" + which + part)
			if err != nil {
				t.Skip("not installed: ", err)
			}
			must(t, os.Symlink(path, filepath.Join(dir, name+part)))
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// podRules are the lines of the packet filter that are about single pods.
func podRules(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, command := range []string{"iptables-legacy-save", "ip6tables-legacy-save", "nft list ruleset"} {
		f := strings.Fields(command)
		raw, err := exec.Command(f[0], f[1:]...).Output()
		must(t, err)
		for line := range strings.Lines(string(raw)) {
			if perPod.MatchString(line) {
				out = append(out, f[0]+": "+strings.TrimSpace(line))
			}
		}
	}
	return out
}

var perPod = regexp.MustCompile(`CNI-([0-9a-f]|DN-|SN-)|id: |macspoofchk|cni-br-iface|10\.77\.\d+\.[1-9]\d*(/32)?[ "]`)

func (n *node) masqueradingConf(backend, more, plugins string) string {
	conf := strings.Replace(n.bridgeConf(plugins), `"ipMasq":false`, fmt.Sprintf(`"ipMasq":true,"ipMasqBackend":%q%s`, backend, more), 1)
	return strings.Replace(conf, `[[{"subnet":"10.77.0.0/16"}]]`, `[[{"subnet":"10.77.0.0/16"}],[{"subnet":"fd77::/64"}]]`, 1)
}

// TestNoRuleIsLeft takes from under a DEL what plugins look for, in each way that a pod or a crash may.
func TestNoRuleIsLeft(t *testing.T) {
	needPlugins(t)
	inside := func(do func() error) func(*node, network.Attachment) error {
		return func(_ *node, a network.Attachment) error { return netns.In(a.NetNS, do) }
	}
	before := []struct {
		name string
		do   func(*node, network.Attachment) error
	}{
		{"nothing", func(*node, network.Attachment) error { return nil }},
		{"namespace gone", func(_ *node, a network.Attachment) error { return netns.Remove(a.NetNS) }},
		{"interface gone", inside(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})},
		{"other addresses", inside(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, family) })
				if err != nil {
					return err
				}
				for _, a := range addrs {
					if err := netlink.AddrDel(l, &a); err != nil {
						return err
					}
				}
			}
			return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 200, 200), Mask: net.CIDRMask(16, 32)}})
		})},
	}
	for _, f := range filters {
		for _, b := range before {
			t.Run(f.name+", "+b.name, func(t *testing.T) {
				useIPTables(t, f.iptables)
				clean := podRules(t)
				n := newNode(t)
				n.write("10-net.conflist", n.masqueradingConf(f.backend, `,"macspoofchk":true`, `,{"type":"portmap","capabilities":{"portMappings":true}},{"type":"firewall","backend":"iptables"}`))
				a, other := n.pod("p1"), n.pod("p2")
				a.PortMappings = []*cri.PortMapping{{HostPort: 18080, ContainerPort: 80}}
				_, err := n.Add(t.Context(), other)
				must(t, err)
				others := podRules(t)
				_, err = n.Add(t.Context(), a)
				must(t, err)
				if len(podRules(t)) == len(others) || len(others) == len(clean) {
					t.Fatalf("the plugins made no rule: %v", others)
				}
				must(t, b.do(n, a))
				must(t, n.Del(t.Context(), a))
				same(t, "the other pod's rules", podRules(t), others)
				must(t, n.Del(t.Context(), other))
				same(t, "rules", podRules(t), clean)
				n.noLeaks()
			})
		}
	}
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// TestKilledBetweenTheRules kills daemon and plugins, with all that they started, at calls of iptables or nft of an ADD
// and of a DEL: what a machine's OOM killer may do, and a daemon of an older version did. With CRASH_KILLS set, as in
// `make crash`, at each call, which takes minutes.
func TestKilledBetweenTheRules(t *testing.T) {
	needPlugins(t)
	step := 12
	if os.Getenv("CRASH_KILLS") != "" {
		step = 1
	}
	first := 0
	for _, f := range filters {
		for _, what := range []string{"add", "del"} {
			first++ // each begins elsewhere
			t.Run(f.name+", "+what, func(t *testing.T) {
				useIPTables(t, f.iptables)
				kills := 0
				for at := min(first, step); killedAt(t, f.backend, what, at); at += step {
					kills++
				}
				if kills == 0 {
					t.Error("the daemon was never killed")
				}
				t.Logf("%d kills", kills)
			})
		}
	}
}

// killedAt kills at the given call, and returns false when there was no such call.
func killedAt(t *testing.T, backend, what string, at int) bool {
	t.Helper()
	clean := podRules(t)
	n := newNode(t)
	n.write("10-net.conflist", n.masqueradingConf(backend, "", `,{"type":"portmap","capabilities":{"portMappings":true}},{"type":"firewall","backend":"iptables"}`))
	a := n.pod("p1")
	a.PortMappings = []*cri.PortMapping{{HostPort: 18080, ContainerPort: 80}}
	if what == "del" {
		_, err := n.Add(t.Context(), a)
		must(t, err)
	}
	daemon := exec.Command("/proc/self/exe")
	daemon.Env = append(os.Environ(), crashEnv+"="+what+":"+n.dir, "PATH="+countingFilters(t, n.dir, at)+":"+os.Getenv("PATH"))
	must(t, daemon.Start())
	err := daemon.Wait()
	n.restart()
	must(t, n.Del(t.Context(), a))
	same(t, fmt.Sprintf("rules after the kill at call %d of %s", at, what), podRules(t), clean)
	n.noLeaks()
	status, ok := daemon.ProcessState.Sys().(syscall.WaitStatus)
	return err != nil && ok && status.Signaled()
}

// countingFilters puts programs before iptables and nft that count their calls in a file, and at one call kill their
// parents up to the daemon.
func countingFilters(t *testing.T, dir string, at int) (bin string) {
	t.Helper()
	bin = filepath.Join(dir, "counting")
	must(t, os.Mkdir(bin, 0o755))
	counter := filepath.Join(bin, "counter")
	for _, name := range []string{"iptables", "ip6tables", "iptables-restore", "ip6tables-restore", "nft"} {
		real, err := exec.LookPath(name)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(bin, name), fmt.Appendf(nil, `#!/bin/sh
printf x >>%[1]s
if [ "$(wc -c <%[1]s)" -eq %[2]d ]; then
	up=$(cut -d' ' -f4 /proc/$PPID/stat)
	if tr '\0' '\n' </proc/$up/environ | grep -q ^%[4]s=; then kill -9 $up; fi # not the test, where the daemon itself calls
	kill -9 $PPID
	exit 1
fi
exec %[3]s "$@"
`, counter, at, real, crashEnv), 0o755))
	}
	return bin
}
