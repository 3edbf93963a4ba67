// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cri-shim/cri-shim/pkg/state"
)

// TestFailedServiceEndsOperations: the daemon ends, to be started anew, when one
// of its services fails while an operation is under way that ends with its
// context only, such as the undoing of a start that waits for the monitor.
func TestFailedServiceEndsOperations(t *testing.T) {
	g, ctx := errgroup.WithContext(t.Context())
	d := &daemon{services: g, ops: state.NewOps(ctx)}
	under, ended := make(chan struct{}), make(chan error, 1)
	state.Go(d.ops, "undo", func(ctx context.Context) error {
		close(under)
		<-ctx.Done()
		return context.Cause(ctx)
	}, func(err error) { ended <- err })
	<-under
	broken := errors.New("accept: broken")
	done := make(chan error, 1)
	go func() {
		done <- d.together(ctx,
			func(context.Context) error { return broken },
			func(ctx context.Context) error { <-ctx.Done(); return nil })
	}()
	select {
	case err := <-done:
		if !errors.Is(err, broken) {
			t.Errorf("the daemon ends with %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the operation was not told")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the daemon hangs with an operation that nobody cancels")
	}
}
