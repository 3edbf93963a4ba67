// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/test/leak"
)

// TestMain: of calls and streams nothing stays.
func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }
