// SPDX-License-Identifier: Apache-2.0

//go:build integration

// Package crash lets the built daemon fail and die: at each step of each operation, at random under load, with damaged
// state, and beside neighbours that hang. After each what was acknowledged is held against what the API says, and what
// the machine holds of the node against what it held before.
package crash

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestMain(m *testing.M) { os.Exit(nodetest.Main(m)) }

// short is the form that `make test` runs; `make crash` sets CRASH_KILLS.
func short() bool { return os.Getenv("CRASH_KILLS") == "" }

// prepared starts a daemon with the test image whose directories prepare has seen.
func prepared(t *testing.T, prepare func(*nodetest.Node)) *nodetest.Node {
	t.Helper()
	d := nodetest.New(t, nodetest.Preload(t))
	prepare(d)
	d.StartFor(t)
	d.AwaitImage(t, nodetest.TestImage)
	return d
}

// start starts a daemon with the test image.
func start(t testing.TB) *nodetest.Node {
	t.Helper()
	return nodetest.Start(t, nodetest.Preload(t))
}
