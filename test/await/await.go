// SPDX-License-Identifier: Apache-2.0

// Package await waits in tests for what has no event, and holds the output that they wait in. What has an event is
// waited for there.
package await

import (
	"testing"
	"time"
)

// Until asks every few milliseconds whether it is ok, and fails the test when it is not within limit.
func Until(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", limit, what)
}
