// SPDX-License-Identifier: Apache-2.0

//go:build integration

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/critest/images"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
	"github.com/cri-shim/cri-shim/test/ocilayout"
	"github.com/cri-shim/cri-shim/test/registry"
)

// cluster is a control plane with two nodes.
type cluster struct {
	*plane
	nodes []*member
}

// programNames are what `make cluster` builds.
var programNames = []string{
	"agnhost", "coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// start brings a cluster up for the length of the test.
func start(t *testing.T) *cluster {
	t.Helper()
	nodetest.Require(t)
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range programNames {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Skipf("no %s: make cluster builds it", name)
		}
	}
	dir, err := os.MkdirTemp("", "cri-cl-")
	if err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(bin, "logs")
	if err := errors.Join(os.Chmod(dir, 0o711), os.RemoveAll(logs), os.MkdirAll(logs, 0o755)); err != nil {
		t.Fatal(err)
	}
	c := &cluster{plane: &plane{}}
	told, forget := signal.NotifyContext(context.WithoutCancel(t.Context()), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(told, func() {
		if t.Context().Err() == nil { // not by the cleanup below
			fmt.Println("cluster: told to stop:", errors.Join(c.end(), removeSwitch(), os.RemoveAll(dir)))
			os.Exit(1)
		}
	})
	t.Cleanup(func() {
		forget()
		if err := errors.Join(c.end(), removeSwitch()); err != nil {
			t.Errorf("%v\nlogs are in %s", err, logs)
			return // there is something to look at
		}
		if t.Failed() {
			t.Logf("logs are in %s", logs)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := c.up(t, dir, logs, bin); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) up(t *testing.T, dir, logs, bin string) (err error) {
	if err := newSwitch(); err != nil {
		return err
	}
	from, err := serveImages(t, dir)
	if err != nil {
		return err
	}
	begin := time.Now()
	if c.plane, err = startPlane(dir, logs, bin); err != nil {
		return err
	}
	served := time.Since(begin)
	for n := range 2 {
		m, err := c.join(t.Context(), n+1, from)
		c.nodes = append(c.nodes, m)
		if err != nil {
			return err
		}
	}
	if err := c.network(); err != nil {
		return err
	}
	if _, err := c.kubectl("", "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"); err != nil {
		return err
	}
	fmt.Printf("cluster: API server after %s, nodes ready after %s\n", served.Round(100*time.Millisecond), time.Since(begin).Round(100*time.Millisecond))
	return c.settle()
}

// settle waits for what the cluster makes by itself before pods can be made, and for names.
func (c *cluster) settle() error {
	err := attempt(time.Minute, func() error {
		_, err := c.kubectl("", "get", "serviceaccount", "default")
		return err
	})
	if err != nil {
		return err
	}
	if _, err := c.kubectl(dns, "apply", "-f", "-"); err != nil {
		return err
	}
	_, err = c.kubectl("", "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s")
	return err
}

// serveImages starts a registry that the nodes reach and pushes every image to it.
func serveImages(t *testing.T, dir string) (source, error) {
	ctx := context.WithoutCancel(t.Context())
	from := source{hosts: filepath.Join(dir, "certs.d"), preload: filepath.Join(dir, "preload")}
	r, err := registry.StartAt(ctx, ours+":0")
	if err != nil {
		return from, err
	}
	t.Cleanup(func() { r.Close() })
	from.registry = r.Addr
	o, err := imageOptions()
	if err != nil {
		return from, err
	}
	a, err := newAuthority(dir)
	if err != nil {
		return from, err
	}
	if err := a.issue("localhost", "localhost", nil, "localhost"); err != nil {
		return from, err
	}
	o.Certificate = a.file("localhost")
	all, err := images.Build(o)
	if err != nil {
		return from, err
	}
	for _, i := range all {
		if _, err := i.Push(ctx, r.URL); err != nil {
			return from, err
		}
	}
	_, ref, _ := strings.Cut(nodetest.TestImage, "/")
	if _, err := ocilayout.Push(ctx, r.URL, ref, nodetest.TestboxImage(t)); err != nil {
		return from, err
	}
	return from, errors.Join(r.WriteHosts(from.hosts, append(slices.Clone(images.Registries), "cri-shim.test")...), os.MkdirAll(from.preload, 0o755))
}

// network connects the nodes as the controller manager has it.
func (c *cluster) network() error {
	for _, m := range c.nodes {
		err := attempt(time.Minute, func() (err error) {
			if err := m.kubelet.alive(); err != nil {
				return stop{err}
			}
			m.pods, err = c.kubectl("", "get", "node", m.name, "-o", "jsonpath={.spec.podCIDR}")
			if err == nil && m.pods == "" {
				err = fmt.Errorf("node %s has no network for its pods", m.name)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := connect(c.nodes); err != nil {
		return err
	}
	return run("ip", "route", "add", serviceNet, "via", c.nodes[0].address)
}

// kubectl runs kubectl with text as its input and returns its output.
func (p *plane) kubectl(text string, args ...string) (string, error) {
	cmd := p.command(args...)
	cmd.Stdin = strings.NewReader(text)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s%s", strings.Join(args, " "), err, complaint.String(), out)
	}
	return string(out), err
}

// clear deletes all that makes pods, and the pods: kubelets take their volumes down.
func (c *cluster) clear() error {
	_, err1 := c.kubectl("", "delete", "deployments,daemonsets,statefulsets,jobs,services", "--all", "-A", "--cascade=background", "--wait=false")
	_, err2 := c.kubectl("", "delete", "pods", "--all", "-A", "--grace-period=1", "--timeout=60s")
	return errors.Join(err1, err2)
}

func (c *cluster) end() error {
	var errs []error
	if len(c.nodes) > 0 && c.admin != "" {
		errs = append(errs, c.clear())
	}
	for _, m := range c.nodes {
		errs = append(errs, m.end(context.Background()))
	}
	return errors.Join(append(errs, c.plane.end())...)
}
