// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/test/leak"
)

// TestMain: of a session nothing stays, neither of ours nor of the libraries.
func TestMain(m *testing.M) { os.Exit(leak.Run(m)) }
