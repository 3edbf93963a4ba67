// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-shim/cri-shim/test/node"
)

// member is a node of the cluster.
type member struct {
	*place
	*node.Node
	pods     string // the network of its pods
	programs string // what it runs of ours, which an upgrade replaces
}

// newMember makes the node of a number, in a folder of dir, and starts its daemon, which waits for a network.
func newMember(ctx context.Context, dir string, n int, preload string) (m *member, err error) {
	m = &member{}
	if m.place, err = newPlace(fmt.Sprintf("n%d", n), fmt.Sprintf("10.99.0.%d", 10+n)); err != nil {
		return m, err
	}
	bin, err := node.Programs()
	if err != nil {
		return m, err
	}
	o := node.Options{
		Kind: node.CRIShim, Dir: filepath.Join(dir, m.name), Bin: bin, Inside: m.held.Process.Pid, Preload: preload,
	}
	if m.Node, err = node.New(o); err != nil {
		return m, err
	}
	if err := errors.Join(os.Chmod(o.Dir, 0o711), m.install(bin)); err != nil {
		return m, err
	}
	m.Program = filepath.Join(m.programs, "cri-shim")
	return m, m.Up(ctx)
}

// install puts programs in the place of those that the node runs.
func (m *member) install(from string) error {
	m.programs = filepath.Join(m.Dir, "programs")
	if err := os.MkdirAll(m.programs, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"runc", "cni"} {
		if err := os.Symlink(filepath.Join(m.Bin, name), filepath.Join(m.programs, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for _, name := range []string{"cri-shim", "cri-monitor"} {
		path := filepath.Join(m.programs, name)
		// Another process writes it: what this one starts beside that would hold it open, and nobody could execute it.
		if err := run("cp", filepath.Join(from, name), path+".new"); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

func (m *member) at(name string) string { return filepath.Join(m.Dir, name) }

const cni = `{"cniVersion": "1.0.0", "name": "cluster", "plugins": [
 {"type": "bridge", "bridge": "cri-pods", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
`

// connect gives each node the network of its pods, and everyone a route to it.
func connect(nodes []*member) error {
	var errs []error
	for _, m := range nodes {
		route := []string{"ip", "route", "add", m.pods, "via", m.address}
		errs = append(errs, m.configure(), run(route...))
		for _, other := range nodes {
			if other != m {
				errs = append(errs, run(other.inside(route...)...))
			}
		}
	}
	return errors.Join(errs...)
}

// configure writes the node's CNI configuration, as a network's daemonset does.
func (m *member) configure() error {
	text := strings.NewReplacer("DIR", m.Dir, "PODS", m.pods).Replace(cni)
	file := filepath.Join(m.Dir, "net.d", "10-cluster.conflist")
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// end takes the node down and fails with what it left.
func (m *member) end(ctx context.Context) error {
	var errs []error
	if m.Node != nil && m.Running() {
		errs = append(errs, m.Down(ctx))
	}
	return errors.Join(append(errs, m.place.end())...)
}
