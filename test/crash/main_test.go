// SPDX-License-Identifier: Apache-2.0

//go:build integration

package crash

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/test/node/nodetest"
)

func TestMain(m *testing.M) { os.Exit(nodetest.Main(m)) }
