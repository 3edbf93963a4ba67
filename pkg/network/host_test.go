// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/pkg/network"
	"github.com/cri-shim/cri-shim/pkg/sys/dump"
	"github.com/cri-shim/cri-shim/pkg/sys/netns"
	"github.com/cri-shim/cri-shim/test/await"
)

// node is a service with directories of its own.
type node struct {
	t                    *testing.T
	dir, conf, cache, ns string
	log                  *await.Output
	opts                 network.Options
	*network.Service
}

func newNode(t *testing.T, change ...func(*network.Options)) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, dir: dir, conf: dir + "/net.d", cache: dir + "/cache", ns: dir + "/netns", log: &await.Output{}}
	bin := filepath.Join(dir, "bin")
	must(t, os.MkdirAll(bin, 0o755))
	must(t, os.MkdirAll(n.conf, 0o755))
	must(t, os.Symlink(os.Args[0], filepath.Join(bin, fakePlugin)))
	n.opts = network.Options{
		ConfDir: n.conf, BinDirs: []string{bin, pluginDir()}, CacheDir: n.cache, Timeout: 20 * time.Second,
		Log: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, c := range change {
		c(&n.opts)
	}
	n.restart()
	t.Cleanup(func() {
		if pid, alive := n.pluginsChild(); alive { // of a plugin that died with its daemon, or is about to
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		left, err := netns.List(n.ns + "/")
		must(t, err)
		for _, p := range left {
			must(t, netns.Remove(p))
		}
	})
	return n
}

// restart is what a new daemon finds.
func (n *node) restart() {
	n.t.Helper()
	s, err := network.New(n.opts)
	must(n.t, err)
	n.Service = s
}

func (n *node) pod(id string) network.Attachment {
	n.t.Helper()
	path := filepath.Join(n.ns, "cri-"+id)
	must(n.t, netns.New(path))
	return network.Attachment{PodID: id, Namespace: "default", Name: "web-" + id, UID: "uid-" + id, NetNS: path}
}

// write moves a configuration file in, as installers do.
func (n *node) write(name, text string) {
	n.t.Helper()
	tmp := filepath.Join(n.dir, name)
	must(n.t, os.WriteFile(tmp, []byte(text), 0o600))
	must(n.t, os.Rename(tmp, filepath.Join(n.conf, name)))
}

func (n *node) calls(name string) []call {
	n.t.Helper()
	raw, err := os.ReadFile(filepath.Join(n.dir, name))
	if os.IsNotExist(err) {
		return nil
	}
	must(n.t, err)
	var out []call
	for line := range strings.Lines(string(raw)) {
		var c call
		must(n.t, json.Unmarshal([]byte(line), &c))
		out = append(out, c)
	}
	return out
}

// pluginsChild is the child that a hanging plugin made.
func (n *node) pluginsChild() (pid int, alive bool) {
	n.t.Helper()
	raw, err := os.ReadFile(filepath.Join(n.dir, "calls.child"))
	if err != nil {
		return 0, false
	}
	if pid, err = strconv.Atoi(string(raw)); err != nil {
		return 0, false // killed while it wrote
	}
	cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty for a zombie
	return pid, err == nil && string(cmd) == "sleep\x00600\x00"
}

// finished tells whether a slow plugin came to its end.
func (n *node) finished() bool {
	_, err := os.Stat(filepath.Join(n.dir, "calls.done"))
	return err == nil
}

func commands(calls []call) string {
	var out []string
	for _, c := range calls {
		out = append(out, c.Command)
	}
	return strings.Join(out, " ")
}

// noLeaks: no interface but the host's own and bridges, no reserved address, no record, no cached result, no rule.
func (n *node) noLeaks() {
	n.t.Helper()
	// The kernel removes a veth some time after its namespace, that of an earlier test included. A plugin's DEL waits for it.
	await.Until(n.t, 10*time.Second, "no veth is left", func() bool {
		links, err := dump.Whole(netlink.LinkList)
		must(n.t, err)
		return !slices.ContainsFunc(links, func(l netlink.Link) bool {
			return l.Type() == "veth" && !strings.HasPrefix(l.Attrs().Name, "uplink")
		})
	})
	must(n.t, filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		in := func(dir string) bool { return strings.HasPrefix(path, n.cache+"/"+dir+"/") }
		if err == nil && !d.IsDir() && (in("attachments") || in("results") || in("locks") || in("ipam") && d.Name() != "lock" && !strings.HasPrefix(d.Name(), "last_reserved")) {
			n.t.Errorf("left: %s", path)
		}
		return err
	}))
	for _, r := range rules(n.t) {
		if strings.Contains(r, "cni") || strings.Contains(r, "CNI-DN") {
			n.t.Errorf("left: rule %s", r)
		}
	}
}

// rules are "table/chain" of each nftables rule that names a pod.
func rules(t *testing.T) []string {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	out, err := dump.Ruleset(func() ([]string, error) {
		chains, err := c.ListChains()
		if err != nil {
			return nil, err
		}
		var out []string
		for _, ch := range chains {
			rs, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return nil, err
			}
			// portmap's and bridge's per-pod rules jump to chains named after a hash; static ones live in known chains
			if strings.HasPrefix(ch.Name, "CNI-DN-") || strings.HasPrefix(ch.Name, "CNI-SN-") || ch.Table.Name == "cni_hostport" && strings.HasPrefix(ch.Name, "cni") {
				out = append(out, slices.Repeat([]string{ch.Table.Name + "/" + ch.Name}, len(rs))...)
			}
		}
		return out, nil
	})
	must(t, err)
	return out
}

func bridgeConf(version, bridge, ipamDir, more string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"test-%s","plugins":[
	{"type":"bridge","bridge":%q,"isGateway":true,"ipMasq":false,
	 "ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.77.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}%s]}`,
		version, bridge, bridge, ipamDir, more)
}

func (n *node) bridgeConf(more string) string {
	n.t.Cleanup(func() {
		if l, err := netlink.LinkByName("test0"); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
	return bridgeConf("1.0.0", "test0", n.cache+"/ipam", more)
}

func (n *node) fake(more string) string {
	return fmt.Sprintf(`{"type":%q,"log":%q%s}`, fakePlugin, n.dir+"/calls", more)
}

func pluginDir() string {
	if d := os.Getenv("CRI_TEST_CNI_BIN"); d != "" {
		return d
	}
	wd, _ := os.Getwd()
	return filepath.Join(wd, "../../bin/cni")
}

func needPlugins(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(pluginDir(), "bridge")); err != nil {
		t.Skip("no CNI plugins in bin/cni: run make cni-plugins")
	}
}

// logged counts a part of what was logged.
func (n *node) logged(part string) int { return strings.Count(n.log.String(), part) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}
