// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package cluster runs Kubernetes on the built daemon: etcd, API server, controller manager and scheduler, two nodes with
// a kubelet and kube-proxy each, and CoreDNS, all from their Go modules. It is driven with kubectl, as users do.
//
// The control plane lives in the network namespace that the tests share; a node is a process in mount, network and UTS
// namespaces of its own, which daemon, kubelet and kube-proxy are started in, and a tree of cgroups. A bridge in the
// control plane's namespace connects them, and nothing listens on the machine. Images come from a registry in this process.
package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cri-shim/cri-shim/test/critest/images"
	"github.com/cri-shim/cri-shim/test/kubelet"
	"github.com/cri-shim/cri-shim/test/node"
	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(holds); name != "" {
		os.Exit(hold(name))
	}
	if os.Geteuid() != 0 { // the tests say so
		os.Exit(m.Run())
	}
	if err := fetchImages(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	clean := kubelet.RemoveAbsent()
	code := nodetest.Main(m)
	clean() // what the namespaces hid; the one inside them finds it in use
	os.Exit(code)
}

// programs are those of Kubernetes that `make cluster` builds.
func programs() (dir string, err error) {
	root, err := node.Root()
	return filepath.Join(root, ".cache", "cluster"), err
}

func imageOptions() (images.Options, error) {
	root, err := node.Root()
	if err != nil {
		return images.Options{}, err
	}
	dir, err := programs()
	return images.Options{
		Cache: filepath.Join(root, ".cache", "critest"), Pause: filepath.Join(root, "cmd/pause/pause_"+runtime.GOARCH),
		Programs: dir, Say: func(format string, args ...any) { fmt.Printf("cluster: "+format+"\n", args...) },
	}, err
}

// fetchImages gets what images are made of while there is still a network to get it from.
func fetchImages() error {
	o, err := imageOptions()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.Programs, "agnhost")); err != nil {
		return nil //nolint:nilerr // the tests say that there are no programs
	}
	return images.Fetch(context.Background(), o)
}
