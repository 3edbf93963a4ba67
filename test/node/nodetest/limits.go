// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/test/await"
	"github.com/cri-shim/cri-shim/test/node"
)

// Eventually waits for a condition that another process brings about.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	await.Until(t, node.Patience(limit), what, ok)
}

// Number is a variable of the environment, or what to take where it is none.
func Number(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// Within bounds one call.
func Within(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
