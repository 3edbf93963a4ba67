// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-shim/cri-shim/test/node"
)

const (
	id         = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"
	bridgeName = "cri-leak"
)

// place is a node where a test leaves something. Its daemon is a program that sleeps, and this process answers for it.
type place struct {
	*testing.T
	*node.Node
	count *atomic.Int64 // goroutines the daemon says it has
	undo  *[]func()
}

func newPlace(t *testing.T, alone bool) place {
	t.Helper()
	dir := t.TempDir()
	n, err := node.New(node.Options{
		Kind: node.CRIShim, Dir: dir, Alone: alone, Network: node.Network{Default: true, Bridge: bridgeName, Subnet: "10.199.7.0/24"},
	})
	p := place{T: t, Node: n, count: new(atomic.Int64), undo: new([]func())}
	p.must(err)
	t.Cleanup(p.clear)
	l, err := net.Listen("unix", n.Socket)
	p.must(err)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(&cri.ListPodSandboxResponse{})
	}))
	go func() { _ = server.Serve(l) }() // ends with Stop
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "go_goroutines %d\n", p.count.Load()+7)
	}))
	n.Metrics = metrics.Listener.Addr().String()
	n.Program = p.at("daemon")
	script := fmt.Sprintf("#!/bin/sh\n[ -e %s ] && exec 9<>/dev/ptmx\n[ $2 = %s ] && exec sleep 60\n", p.at("hold"), n.Config)
	p.must(os.WriteFile(n.Program, []byte(script), 0o755), os.WriteFile(n.LogFile, []byte("made "+id+"\n"), 0o644), n.Up(t.Context()))
	p.later(func() {
		p.must(n.Kill(), n.Close())
		server.Stop()
		metrics.Close()
	})
	return p
}

// later notes what is to be done when the test ends, last first.
func (p place) later(do func()) { *p.undo = append(*p.undo, do) }

func (p place) clear() {
	for ; len(*p.undo) > 0; *p.undo = (*p.undo)[:len(*p.undo)-1] {
		(*p.undo)[len(*p.undo)-1]()
	}
}

func (p place) must(errs ...error) {
	p.Helper()
	for _, err := range errs {
		if err != nil {
			p.Fatal(err)
		}
	}
}

func (p place) look() node.Snapshot {
	p.Helper()
	s, err := p.Snapshot()
	p.must(err)
	return s
}

func (p place) at(name string) string { return filepath.Join(p.Dir, name) }

func (p place) write(path, text string) string {
	p.Helper()
	p.must(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	p.later(func() { p.must(os.Remove(path)) })
	return path
}

func (p place) mkdir(path string) string {
	p.Helper()
	p.must(os.Mkdir(path, 0o755))
	p.later(func() { p.must(os.Remove(path)) })
	return path
}

func (p place) mount(dir string) string {
	p.Helper()
	p.must(os.MkdirAll(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	p.later(func() { p.must(unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// start runs a program until the test ends and returns its process id.
func (p place) start(cmd *exec.Cmd) int {
	p.Helper()
	p.must(cmd.Start())
	p.later(func() {
		p.must(cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	})
	return cmd.Process.Pid
}

// monitor runs a program of the monitor's name.
func (p place) monitor(holds ...*os.File) {
	p.Helper()
	tail, err := exec.LookPath("tail")
	p.must(err)
	data, err := os.ReadFile(tail)
	p.must(err, os.WriteFile(p.at("cri-monitor"), data, 0o755))
	cmd := exec.Command(p.at("cri-monitor"), "-f", p.write(p.at("followed"), ""))
	cmd.ExtraFiles = holds
	p.start(cmd)
}

func (p place) terminal() *os.File {
	p.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	p.must(err)
	p.later(func() { f.Close() })
	return f
}

// container runs pause on an overlay of the node's.
func (p place) container() int {
	p.Helper()
	for _, dir := range []string{"lower", "upper", "work", "merged"} {
		p.must(os.Mkdir(p.at(dir), 0o755))
	}
	pause, err := os.ReadFile("../../cmd/pause/pause_" + runtime.GOARCH)
	p.must(err, os.WriteFile(p.at("lower/pause"), pause, 0o755),
		unix.Mount("overlay", p.at("merged"), "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", p.at("lower"), p.at("upper"), p.at("work"))))
	p.later(func() { p.must(unix.Unmount(p.at("merged"), unix.MNT_DETACH)) })
	return p.start(&exec.Cmd{Path: "/pause", Args: []string{"/pause"}, SysProcAttr: &syscall.SysProcAttr{Chroot: p.at("merged")}})
}

func (p place) bridge() netlink.Link {
	p.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	p.must(netlink.LinkAdd(link))
	p.later(func() { p.must(netlink.LinkDel(link)) })
	return link
}

func (p place) veth() netlink.Link {
	p.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "leak0"}, PeerName: "leak1"}
	p.must(netlink.LinkAdd(link))
	p.later(func() { p.must(netlink.LinkDel(link)) })
	return link
}

// run runs a program of the machine, without which the test says so and does nothing.
func (p place) run(args ...string) {
	p.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		p.Skipf("%s is not installed", args[0])
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		p.Fatalf("%v: %v: %s", args, err, out)
	}
}

// chain is a pod's of CNI's portmap and bridge plugins.
func (p place) chain() string {
	sum := sha512.Sum512([]byte("cri-shim" + id))
	return "CNI-" + hex.EncodeToString(sum[:])[:24]
}

func (p place) nft(commands ...string) {
	p.Helper()
	p.later(func() { p.run("nft", "delete table ip leak") })
	p.run("nft", strings.Join(commands, "; "))
}

func (p place) lease(name string) {
	p.Helper()
	p.must(os.MkdirAll(p.at("root/images"), 0o755))
	db, err := bolt.Open(p.at("root/images/metadata.db"), 0o600, nil)
	p.must(err)
	p.must(db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("v1"))
		for _, bucket := range []string{"k8s.io", "leases", name} {
			if err == nil {
				b, err = b.CreateBucket([]byte(bucket))
			}
		}
		return err
	}), db.Close())
}

// hierarchy is a place to make cgroups: the only one with cgroup v2, any one with v1.
func (p place) hierarchy() string {
	p.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	p.Fatal("no cgroup hierarchy is mounted")
	return ""
}
