// SPDX-License-Identifier: Apache-2.0

package keyed

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errWhy = errors.New("why")

// TestLockExcludes: one holder of a key at a time, others of other keys, and nothing left.
func TestLockExcludes(t *testing.T) {
	var l Lock
	var inside [3]int // guarded by the key's lock alone: the race detector looks on
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			key := strconv.Itoa(i % len(inside))
			if i%2 == 0 {
				defer l.Hold(key)()
			} else {
				if err := l.Lock(t.Context(), key); err != nil {
					t.Error(err)
				}
				defer l.Unlock(key)
			}
			inside[i%len(inside)]++
		})
	}
	wg.Wait()
	if inside != [3]int{20, 20, 20} || len(l.held) != 0 {
		t.Errorf("entered %v, keys left %d", inside, len(l.held))
	}
}

// TestLockWaitersGiveUp: with the cause of their context, and without a trace.
func TestLockWaitersGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Lock
		release := l.Hold("a")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errWhy)
		defer cancel()
		if err := l.Lock(ctx, "a"); !errors.Is(err, errWhy) {
			t.Errorf("error %v", err)
		}
		if err := l.Lock(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		l.Unlock("b")
		release()
		if err := l.Lock(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		l.Unlock("a")
		if len(l.held) != 0 {
			t.Errorf("keys left: %d", len(l.held))
		}
	})
}

// TestCallsAreShared: by those who ask for the same key while it runs, and by nobody later.
func TestCallsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var idle atomic.Int32
		f := Flight[string, int]{Idle: func() { idle.Add(1) }}
		var runs atomic.Int32
		run := func(context.Context) (int, error) {
			time.Sleep(time.Second)
			return int(runs.Add(1)), errWhy
		}
		for round := 1; round <= 2; round++ {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if n, err := f.Do(t.Context(), "a", run); n != round || !errors.Is(err, errWhy) {
						t.Errorf("%d, %v; want %d", n, err, round)
					}
				})
			}
			wg.Wait()
		}
		synctest.Wait()
		if runs.Load() != 2 || idle.Load() != 2 || len(f.running) != 0 {
			t.Errorf("runs %d, idle %d times, left %d", runs.Load(), idle.Load(), len(f.running))
		}
	})
}

// TestLastOneOutCutsOff: one caller who leaves ends nothing, the last one does, and who comes then gets a new call.
func TestLastOneOutCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight[string, string]
		first, leaveFirst := context.WithCancelCause(t.Context())
		second, leaveSecond := context.WithCancelCause(t.Context())
		cut := make(chan error, 1)
		for _, ctx := range []context.Context{first, second} {
			go func() {
				_, err := f.Do(ctx, "a", func(ctx context.Context) (string, error) {
					<-ctx.Done()
					cut <- context.Cause(ctx)
					time.Sleep(time.Minute) // ending takes its time
					return "old", nil
				})
				if !errors.Is(err, errWhy) {
					t.Errorf("error %v", err)
				}
			}()
		}
		synctest.Wait()
		leaveFirst(errWhy)
		synctest.Wait()
		if len(cut) != 0 {
			t.Error("cut off although somebody waits")
		}
		leaveSecond(errWhy)
		synctest.Wait()
		if err := <-cut; !errors.Is(err, errWhy) {
			t.Errorf("cut off by %v", err)
		}
		if got, err := f.Do(t.Context(), "a", func(context.Context) (string, error) {
			time.Sleep(2 * time.Minute) // beyond the end of the old one
			return "new", nil
		}); got != "new" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := f.Do(first, "a", nil); !errors.Is(err, errWhy) {
			t.Errorf("caller that was gone before: %v", err)
		}
	})
}

// TestBackgroundCalls go on when nobody waits, until they are forgotten or the flight is closed.
func TestBackgroundCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight[string, struct{}]
		ended := map[string]error{}
		var mu sync.Mutex // guards ended
		start := func(key string) <-chan struct{} {
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			return f.Start(gone, key, func(ctx context.Context) (struct{}, error) {
				<-ctx.Done()
				mu.Lock()
				defer mu.Unlock()
				ended[key] = context.Cause(ctx)
				return struct{}{}, nil
			})
		}
		a, same, b := start("a"), start("a"), start("b")
		if a != same || a == b {
			t.Error("calls are not shared by key")
		}
		synctest.Wait()
		if len(ended) != 0 {
			t.Errorf("ended by themselves: %v", ended)
		}
		f.Forget("a", errWhy)
		<-a
		f.Forget("a", errWhy)
		again := start("a")
		closing := errors.New("closing")
		<-f.Close(closing)
		<-again
		<-b
		if !errors.Is(ended["a"], closing) || !errors.Is(ended["b"], closing) {
			t.Errorf("ended by %v", ended)
		}
		if start("c") != nil {
			t.Error("a call began after Close")
		}
		if _, err := f.Do(t.Context(), "c", nil); !errors.Is(err, closing) {
			t.Errorf("error after Close: %v", err)
		}
	})
}
