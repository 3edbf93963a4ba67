// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

func TestProbe(t *testing.T) {
	if err := sys.Probe(t.Context(), t.TempDir()); err != nil {
		t.Errorf("a directory: %v", err)
	}
	if err := sys.Probe(t.Context(), t.TempDir()+"/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing path: %v", err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	// Either answer may come first when both are there; neither hangs.
	if err := sys.Probe(ctx, "/"); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline that is over: %v", err)
	}
}
