// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
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

// TestHangingOperationEndsWithTheDaemon: one that waits for the kernel, and so
// does not end with its context, keeps the daemon from ending only for a while.
func TestHangingOperationEndsWithTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		g, ctx := errgroup.WithContext(ctx)
		var log bytes.Buffer
		d := &daemon{services: g, ops: state.NewOps(ctx), log: slog.New(slog.NewTextHandler(&log, nil))}
		answer := make(chan struct{})
		state.Go(d.ops, "create web", func(ctx context.Context) error {
			state.Stage(ctx, "make sources of mounts")
			<-answer
			return nil
		}, func(error) {})
		stop()
		began := time.Now()
		if err := d.together(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil }); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("the daemon ends after %s", took)
		}
		if text := log.String(); !strings.Contains(text, "create web") || !strings.Contains(text, "make sources of mounts") {
			t.Errorf("the log does not say what was left: %s", text)
		}
		close(answer)
	})
}
