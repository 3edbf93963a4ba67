// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

// TestMain is also the process that takes a lock and leaves a child with it, and
// the one that works off its first thread.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_FIRST_THREAD") != "" {
		if err := sys.OffFirstThread(blockThreads); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if path := os.Getenv("TEST_LOCK"); path != "" {
		os.Exit(holdLock(path))
	}
	os.Exit(m.Run())
}
