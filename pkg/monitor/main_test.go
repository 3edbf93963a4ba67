// SPDX-License-Identifier: Apache-2.0

package monitor_test

import (
	"testing"

	"github.com/cri-shim/cri-shim/test/node/monitornode"
)

func TestMain(m *testing.M) { monitornode.Main(m) }
