// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cri-shim/cri-shim/pkg/state"
)

func TestSameOperationRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := state.NewOps(context.Background())
		var runs atomic.Int32
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				got, err := state.Do(t.Context(), ops, "run pod", func(context.Context) (string, error) {
					runs.Add(1)
					<-release
					return "id", nil
				})
				if got != "id" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		synctest.Wait() // all are there while the first runs
		close(release)
		wg.Wait()
		if n := runs.Load(); n != 1 {
			t.Errorf("ran %d times", n)
		}
	})
}

func TestCallerGivesUpOperationGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := state.NewOps(context.Background())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow := func(ctx context.Context) (string, error) {
			state.Stage(ctx, "cni add")
			time.Sleep(3 * time.Second)
			return "id", ctx.Err()
		}
		_, err := state.Do(ctx, ops, "run pod web", slow)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cni add") || !strings.Contains(err.Error(), "1s") {
			t.Errorf("first caller: %v, want its deadline, the stage and how long", err)
		}
		got, err := state.Do(t.Context(), ops, "run pod web", func(context.Context) (string, error) {
			return "", errors.New("the retry ran instead of joining")
		})
		if got != "id" || err != nil {
			t.Errorf("retry: %q, %v", got, err)
		}
		ops.Wait(context.Background())
	})
}

func TestPanicIsAnErrorOfItsOperation(t *testing.T) {
	ops := state.NewOps(t.Context())
	_, err := state.Do(t.Context(), ops, "stop pod", func(context.Context) (int, error) { panic("boom") })
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("got %v", err)
	}
}

func TestLockWaitersCanGiveUp(t *testing.T) {
	ops := state.NewOps(t.Context())
	release, err := ops.Lock(t.Context(), "pod/a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := ops.Lock(ctx, "pod/a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v", err)
	}
	other, err := ops.Lock(t.Context(), "pod/b")
	if err != nil {
		t.Fatalf("another object: %v", err)
	}
	other()
	release()
	again, err := ops.Lock(t.Context(), "pod/a")
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again()
}

func TestTraceHasEveryStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := state.NewOps(context.Background())
		spans, err := state.Do(t.Context(), ops, "run", func(ctx context.Context) ([]state.Span, error) {
			state.Stage(ctx, "one")
			time.Sleep(time.Second)
			state.Stage(ctx, "two")
			time.Sleep(2 * time.Second)
			return state.Trace(ctx), nil
		})
		if err != nil || len(spans) != 2 || spans[0] != (state.Span{Step: "one", Took: time.Second}) || spans[1].Took != 2*time.Second {
			t.Errorf("spans %v, %v", spans, err)
		}
	})
}
