// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/cri-shim/cri-shim/test/node"
)

// The addresses of a cluster: those of its machines, its pods and its services.
const (
	server     = "https://" + ours + ":6443"
	etcd       = "http://127.0.0.1:2379"
	podNet     = "10.244.0.0/16"
	serviceNet = "10.96.0.0/16"
	dnsAddress = "10.96.0.10"
	domain     = "cluster.local"
)

// plane is the control plane.
type plane struct {
	dir, logs, bin string
	ca             *authority
	admin          string // kubeconfig
	running        []*process
}

// startPlane starts the four programs and waits until the API server is ready.
func startPlane(dir, logs, bin string) (*plane, error) {
	p := &plane{dir: dir, logs: logs, bin: bin}
	if err := p.certificates(); err != nil {
		return p, err
	}
	if err := p.start("etcd", "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn"); err != nil {
		return p, err
	}
	if err := p.awaitHTTP(etcd+"/health", p.running[0]); err != nil {
		return p, err
	}
	if err := p.start("kube-apiserver", p.apiserverArgs()...); err != nil {
		return p, err
	}
	if err := p.awaitReady(p.running[1]); err != nil {
		return p, err
	}
	manager, err1 := p.ca.login("manager", "system:kube-controller-manager")
	scheduler, err2 := p.ca.login("scheduler", "system:kube-scheduler")
	return p, errors.Join(err1, err2,
		p.start("kube-controller-manager", "--kubeconfig", manager, "--leader-elect=false", "--use-service-account-credentials",
			"--allocate-node-cidrs", "--cluster-cidr", podNet, "--service-cluster-ip-range", serviceNet, "--configure-cloud-routes=false",
			"--root-ca-file", p.ca.file("ca.crt"), "--service-account-private-key-file", p.ca.file("tokens.key"),
			"--cluster-signing-cert-file", p.ca.file("ca.crt"), "--cluster-signing-key-file", p.ca.file("ca.key"), "--bind-address", "127.0.0.1"),
		p.start("kube-scheduler", "--kubeconfig", scheduler, "--leader-elect=false", "--bind-address", "127.0.0.1"))
}

func (p *plane) certificates() (err error) {
	if p.ca, err = newAuthority(p.dir); err != nil {
		return err
	}
	if p.admin, err = p.ca.login("admin", "admin", "system:masters"); err != nil {
		return err
	}
	return errors.Join(
		p.ca.issue("server", "kube-apiserver", nil, ours, "127.0.0.1", "10.96.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc."+domain),
		p.ca.issue("to-kubelet", "kube-apiserver-kubelet-client", []string{"system:masters"}),
		p.ca.issue("front", "front-proxy-client", nil),
		p.ca.issue("tokens", "service accounts", nil),
	)
}

func (p *plane) apiserverArgs() []string {
	return []string{
		"--etcd-servers", etcd, "--advertise-address", ours, "--secure-port", "6443", "--service-cluster-ip-range", serviceNet,
		"--tls-cert-file", p.ca.file("server.crt"), "--tls-private-key-file", p.ca.file("server.key"), "--client-ca-file", p.ca.file("ca.crt"),
		"--service-account-issuer", "https://kubernetes.default.svc." + domain,
		"--service-account-key-file", p.ca.file("tokens.key"), "--service-account-signing-key-file", p.ca.file("tokens.key"),
		"--kubelet-client-certificate", p.ca.file("to-kubelet.crt"), "--kubelet-client-key", p.ca.file("to-kubelet.key"),
		"--kubelet-preferred-address-types", "InternalIP", "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
		"--allow-privileged", "--requestheader-client-ca-file", p.ca.file("ca.crt"), "--requestheader-allowed-names", "front-proxy-client",
		"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
		"--requestheader-extra-headers-prefix", "X-Remote-Extra-", "--proxy-client-cert-file", p.ca.file("front.crt"),
		"--proxy-client-key-file", p.ca.file("front.key"), "--enable-aggregator-routing",
	}
}

func (p *plane) start(name string, args ...string) error {
	started, err := launch(p.logs, name, append([]string{filepath.Join(p.bin, name)}, args...)...)
	if err == nil {
		p.running = append(p.running, started)
	}
	return err
}

func (p *plane) awaitHTTP(url string, of *process) error {
	return attempt(time.Minute, func() error {
		if err := of.alive(); err != nil {
			return stop{err}
		}
		answer, err := http.Get(url)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, answer.Status)
		}
		return nil
	})
}

func (p *plane) awaitReady(of *process) error {
	return attempt(2*time.Minute, func() error {
		if err := of.alive(); err != nil {
			return stop{err}
		}
		return run(filepath.Join(p.bin, "kubectl"), "--kubeconfig", p.admin, "get", "--raw", "/readyz")
	})
}

// end stops what was started last first.
func (p *plane) end() error {
	var errs []error
	for _, r := range slices.Backward(p.running) {
		errs = append(errs, r.stop())
	}
	return errors.Join(errs...)
}

// stop is an error that no further attempt changes.
type stop struct{ error }

// attempt repeats what others still have to make possible.
func attempt(limit time.Duration, do func() error) error {
	var err error
	for end := time.Now().Add(node.Patience(limit)); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		err = do()
		if final, ok := errors.AsType[stop](err); ok {
			return final.error
		}
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("not within %s: %w", limit, err)
}

func (p *plane) command(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(p.bin, "kubectl"), append([]string{
		"--kubeconfig", p.admin, "--cache-dir", filepath.Join(p.dir, "kubectl"), "--request-timeout", "0",
	}, args...)...)
}
