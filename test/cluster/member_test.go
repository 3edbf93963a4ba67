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

	"github.com/cri-shim/cri-shim/test/kubelet"
	"github.com/cri-shim/cri-shim/test/node"
)

// member is a node of the cluster: our daemon, and in Kubernetes a kubelet and kube-proxy.
type member struct {
	*place
	*node.Node
	plane          *plane
	pods           string // the network of its pods
	programs       string // what it runs of ours, which an upgrade replaces
	cgroup         *kubelet.Cgroup
	kubelet, proxy *process
}

// source is where nodes get their images.
type source struct{ registry, hosts, preload string }

// newMember makes the node of a number, in a folder of dir, and starts its daemon, which waits for a network.
func newMember(ctx context.Context, dir string, n int, from source) (m *member, err error) {
	m = &member{}
	if m.place, err = newPlace(fmt.Sprintf("n%d", n), fmt.Sprintf("10.99.0.%d", 10+n)); err != nil {
		return m, err
	}
	bin, err := node.Programs()
	if err != nil {
		return m, err
	}
	o := node.Options{
		Kind: node.CRIShim, Dir: filepath.Join(dir, m.name), Bin: bin, Inside: m.held.Process.Pid,
		Registry: from.registry, Hosts: from.hosts, Preload: from.preload,
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

// join makes a node of Kubernetes and starts its programs. It is registered then, and waits for a network.
func (p *plane) join(ctx context.Context, n int, from source) (*member, error) {
	m, err := newMember(ctx, p.dir, n, from)
	if err != nil {
		return m, err
	}
	m.plane, m.cgroup = p, &kubelet.Cgroup{Name: fmt.Sprintf("/cricluster%dn%d", os.Getpid(), n)}
	return m, errors.Join(m.cgroup.Make(ctx, m.Runtime), m.startKubelet(), m.startProxy())
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

func (m *member) startKubelet() error {
	login, err := m.plane.ca.login(m.name, "system:node:"+m.name, "system:nodes")
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.at("resolv.conf"), nil, 0o644); err != nil {
		return err
	}
	err = writeJSON(m.at("kubelet.json"), object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"syncFrequency": "5s", "nodeStatusUpdateFrequency": "2s", "containerRuntimeEndpoint": "unix://" + m.Socket,
		"authentication": object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": m.plane.ca.file("ca.crt")}},
		"cgroupRoot":     m.cgroup.Name, "failCgroupV1": false, "failSwapOn": false, // the driver is the runtime's to say
		"enforceNodeAllocatable": []string{}, "evictionHard": object{}, "imageGCHighThresholdPercent": 100,
		"podLogsDir": m.at("logs"), "volumePluginDir": m.at("volume-plugins"), "resolvConf": m.at("resolv.conf"),
		"clusterDNS": []string{dnsAddress}, "clusterDomain": domain, "serializeImagePulls": false, "configMapAndSecretChangeDetectionStrategy": "Watch",
		"featureGates": object{"EventedPLEG": true, "PodAndContainerStatsFromCRI": true}, "logging": object{"verbosity": 2},
		"shutdownGracePeriod": "0s", "allowedUnsafeSysctls": []string{"kernel.msg*"},
	})
	if err != nil {
		return err
	}
	m.kubelet, err = launch(m.plane.logs, m.name+"-kubelet", m.inside(filepath.Join(m.plane.bin, "kubelet"), "--config", m.at("kubelet.json"),
		"--kubeconfig", login, "--root-dir", m.at("kubelet"), "--cert-dir", m.at("pki"), "--hostname-override", m.name, "--node-ip", m.address)...)
	return err
}

func (m *member) startProxy() error {
	login, err := m.plane.ca.login(m.name+"-proxy", "system:kube-proxy")
	if err != nil {
		return err
	}
	err = writeJSON(m.at("proxy.json"), object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clientConnection": object{"kubeconfig": login},
		"mode": "nftables", "clusterCIDR": podNet, "hostnameOverride": m.name, "metricsBindAddress": "127.0.0.1:10249",
		// These are the machine's, not a network namespace's.
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	})
	if err != nil {
		return err
	}
	m.proxy, err = launch(m.plane.logs, m.name+"-proxy", m.inside(filepath.Join(m.plane.bin, "kube-proxy"), "--config", m.at("proxy.json"))...)
	return err
}

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
	errs := []error{m.kubelet.stop(), m.proxy.stop()}
	if m.Node != nil && m.Running() {
		errs = append(errs, m.Down(ctx))
	}
	if m.cgroup != nil {
		errs = append(errs, m.cgroup.Remove(ctx))
	}
	return errors.Join(append(errs, m.place.end())...)
}
