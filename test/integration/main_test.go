// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package integration runs the built daemon against real runc, CNI plugins, overlayfs and a registry, and asks of it what
// a kubelet asks. Tests of one daemon each run side by side, in mount and network namespaces of the package's own.
package integration

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestMain(m *testing.M) { os.Exit(nodetest.Main(m)) }
