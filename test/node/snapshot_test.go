// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/test/node"
)

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if again, code, err := node.Isolate(); again || err != nil {
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// TestEveryLeakIsFound leaves one thing of each kind, as a runtime with a fault would, and wants it reported: for a node
// that has its namespaces to itself, and for one that has not.
func TestEveryLeakIsFound(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts and makes namespaces")
	}
	for _, tt := range []struct {
		name   string
		leave  func(p place) (reported string) // whatever it makes goes with the test
		span   node.Span                       // what it should have gone with
		nobody bool                            // carries no name: found only when the node is alone
	}{
		{name: "mount", leave: func(p place) string {
			return "mount: " + p.mount(p.at("state/mnt"))
		}},
		{name: "mount elsewhere", nobody: true, leave: func(p place) string {
			return "mount: " + p.mount(p.TempDir())
		}},
		{name: "network namespace", leave: func(p place) string {
			return "network namespace: " + p.write(p.Layout().NetNSPrefix()+"0123", "")
		}},
		{name: "network namespace of another name", nobody: true, leave: func(p place) string {
			return "network namespace: " + p.write(state.NetNSDir+"/other", "")
		}},
		{name: "bridge", span: node.OfNode, leave: func(p place) string {
			p.bridge()
			return "interface: bridge cri-leak"
		}},
		{name: "port of the bridge", leave: func(p place) string {
			bridge := p.bridge()
			p.must(netlink.LinkSetMaster(p.veth(), bridge))
			return "interface: veth leak0"
		}},
		{name: "link", nobody: true, leave: func(p place) string {
			p.veth()
			return "interface: veth leak0"
		}},
		{name: "chain of iptables", leave: func(p place) string {
			p.run("iptables", "-t", "nat", "-N", p.chain())
			p.later(func() { p.run("iptables", "-t", "nat", "-X", p.chain()) })
			return "rule: nft: chain " + p.chain() + " {"
		}},
		{name: "rule of iptables with a pod's id", leave: func(p place) string {
			rule := []string{"POSTROUTING", "-m", "comment", "--comment", id, "-j", "ACCEPT"}
			p.run(append([]string{"iptables-legacy", "-t", "nat", "-A"}, rule...)...)
			p.later(func() { p.run(append([]string{"iptables-legacy", "-t", "nat", "-D"}, rule...)...) })
			return "rule: iptables-legacy-save: -A POSTROUTING -m comment --comment " + id + " -j ACCEPT"
		}},
		{name: "rule of nftables with a pod's address", leave: func(p place) string {
			p.nft("add table ip leak", "add chain ip leak c", "add rule ip leak c ip saddr 10.199.7.9 accept")
			return "rule: nft: ip saddr 10.199.7.9 accept"
		}},
		{name: "rule of nftables with a host port", nobody: true, leave: func(p place) string {
			p.nft("add table ip leak", "add chain ip leak c", "add rule ip leak c tcp dport 80 dnat to 192.0.2.7")
			return "rule: nft: tcp dport 80 dnat to 192.0.2.7"
		}},
		{name: "rule of nftables by its comment", nobody: true, leave: func(p place) string {
			p.nft("add table ip leak", "add chain ip leak hostports", "add rule ip leak hostports tcp dport 80 accept comment \"cni-hostport\"")
			return "rule: nft: tcp dport 80 accept comment \"cni-hostport\""
		}},
		{name: "cgroup", leave: func(p place) string {
			return "cgroup: " + p.mkdir(p.hierarchy()+"/cri-"+id)
		}},
		{name: "cgroup below a pod's", leave: func(p place) string {
			return "cgroup: " + p.mkdir(p.mkdir(p.hierarchy()+"/kubepods-"+id)+"/below")
		}},
		{name: "process with the node's folder", leave: func(p place) string {
			log := p.write(p.at("log"), "")
			return fmt.Sprintf("process: %d tail -f %s", p.start(exec.Command("tail", "-f", log)), log)
		}},
		{name: "monitor", span: node.OfNode, leave: func(p place) string {
			p.monitor()
			return "process: cri-monitor"
		}},
		{name: "container's process", leave: func(p place) string {
			return fmt.Sprintf("process: %d /pause", p.container())
		}},
		{name: "process of another name", nobody: true, leave: func(p place) string {
			return fmt.Sprintf("process: %d sleep 60", p.start(exec.Command("sleep", "60")))
		}},
		{name: "record", leave: func(p place) string {
			p.write(p.at("root/records/pods/x.json"), "{}")
			return "file: root/records/pods/x.json"
		}},
		{name: "pipe", leave: func(p place) string {
			p.must(os.MkdirAll(p.at("state/monitor"), 0o755), unix.Mkfifo(p.at("state/monitor/pipe"), 0o600))
			return "file: state/monitor/pipe"
		}},
		{name: "file of a container", leave: func(p place) string {
			p.write(p.at("root/anywhere/"+id+"/file"), "")
			return "file: root/anywhere/" + id + "/file"
		}},
		{name: "blob", span: node.Kept, leave: func(p place) string {
			p.write(p.at("root/images/content/blobs/sha256/"+id), "")
			return "file: root/images/content/blobs/sha256/" + id
		}},
		{name: "lease", span: node.Kept, leave: func(p place) string {
			p.lease("left")
			return "lease: left"
		}},
		{name: "temporary file", leave: func(p place) string {
			p.write(p.at("tmp/containerd-mount1"), "")
			return "temporary file: containerd-mount1"
		}},
		{name: "address that stays given out", leave: func(p place) string {
			return "shared file: " + p.write("/var/lib/cni/networks/"+id, "")
		}},
		{name: "file of another name in a runtime's folder", nobody: true, span: node.OfNode, leave: func(p place) string {
			return "shared file: " + p.write("/run/containerd/left", "")
		}},
		{name: "folder below /run", nobody: true, span: node.OfNode, leave: func(p place) string {
			return "shared file: " + p.mkdir("/run/cri-leak")
		}},
		{name: "folder below /opt", nobody: true, span: node.OfNode, leave: func(p place) string {
			p.must(os.MkdirAll("/opt", 0o755))
			return "shared file: " + p.mkdir("/opt/cri-leak")
		}},
		{name: "descriptor of the monitor", leave: func(p place) string {
			p.monitor(p.terminal())
			return "descriptor: cri-monitor /dev/ptmx"
		}},
		{name: "descriptor of the daemon", leave: func(p place) string {
			p.write(p.at("hold"), "")
			p.must(p.Kill(), p.Up(p.Context()))
			return "descriptor: cri-shim /dev/ptmx"
		}},
		{name: "goroutine", span: node.Kept, leave: func(p place) string {
			p.count.Add(1)
			return "goroutine: cri-shim"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, alone := range []bool{false, true} {
				p := newPlace(t, alone)
				before := p.look()
				reported := tt.leave(p)
				left := p.look().Left(before, tt.span)
				found := slices.ContainsFunc(left, func(i node.Item) bool { return i.String() == reported })
				if want := alone || !tt.nobody; found != want {
					t.Errorf("alone %t: %s: found %t, want %t, in %v", alone, reported, found, want, left)
				}
				p.clear()
			}
		})
	}
}
