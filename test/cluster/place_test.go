// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cri-shim/cri-shim/test/kubelet"
)

// holds is the variable with which this program holds the namespaces of the node it names.
const holds = "CRI_CLUSTER_HOLDS"

// hold is the process that a node's programs are started in the namespaces of. It ends with its standard input.
func hold(name string) int {
	if err := furnish(name); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 1
	}
	return 0
}

// furnish makes the namespaces a machine's: mounts propagate within and never out, and what
// kubelets, plugins and kube-proxy write wherever they are is the node's own.
func furnish(name string) error {
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib/cni"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("furnish %s: %w", dir, err)
		}
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("furnish: host name: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	return errors.Join(kubelet.Hide(), run("ip", "link", "set", "lo", "up"), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
}

// place is a node's namespaces, and the wire to the switch.
type place struct {
	name, address string
	held          *exec.Cmd
	in            io.Closer
}

const (
	bridge = "cri-switch"
	ours   = "10.99.0.1" // the address of this process, on the bridge
)

// newSwitch makes the bridge that connects the machines.
func newSwitch() error {
	return errors.Join(run("ip", "link", "add", bridge, "type", "bridge"),
		run("ip", "addr", "add", ours+"/24", "dev", bridge), run("ip", "link", "set", bridge, "up"))
}

func removeSwitch() error { return run("ip", "link", "del", bridge) }

// newPlace makes a node's namespaces and connects them.
func newPlace(name, address string) (*place, error) {
	p := &place{name: name, address: address, held: exec.Command("/proc/self/exe")}
	p.held.Env = append(os.Environ(), holds+"="+name)
	p.held.Stderr = os.Stderr
	p.held.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	in, err1 := p.held.StdinPipe()
	out, err2 := p.held.StdoutPipe()
	if err := errors.Join(err1, err2, p.held.Start()); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	p.in = in
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		return p, fmt.Errorf("make %s: %s: %w", name, line, errors.Join(err, p.held.Wait()))
	}
	return p, errors.Join(
		run("ip", "link", "add", p.wire(), "type", "veth", "peer", "name", "eth0", "netns", p.pid()),
		run("ip", "link", "set", p.wire(), "master", bridge, "up"),
		run(p.inside("ip", "addr", "add", address+"/24", "dev", "eth0")...), run(p.inside("ip", "link", "set", "eth0", "up")...),
		run(p.inside("ip", "route", "add", "default", "via", ours)...))
}

func (p *place) wire() string { return "cri-" + p.name }
func (p *place) pid() string  { return strconv.Itoa(p.held.Process.Pid) }

// inside is a command in the node's namespaces.
func (p *place) inside(args ...string) []string {
	return append([]string{"nsenter", "--target", p.pid(), "--mount", "--net", "--uts", "--"}, args...)
}

// end gives the namespaces up; the wire goes with them.
func (p *place) end() error {
	if p == nil {
		return nil
	}
	p.in.Close()
	return p.held.Wait()
}
