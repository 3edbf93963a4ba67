// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package cluster runs several nodes of one cluster on this machine. A node is a process in mount, network and UTS
// namespaces of its own, in which the daemon is started; a bridge connects them, and nothing listens on the machine. There
// is no Kubernetes: pods are made over CRI, and who routes to them is written by the test.
package cluster

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(holds); name != "" {
		os.Exit(hold(name))
	}
	os.Exit(nodetest.Main(m))
}
