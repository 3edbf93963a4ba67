// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestExitListOrder(t *testing.T) {
	l := newExitList()
	l.begin("a")
	for seq := range uint64(4) {
		l.put(Exit{ID: string('w' + rune(seq)), Seq: seq + 1})
	}
	l.put(Exit{ID: "w", Seq: 1}) // a new connection replays
	all := l.unrecorded(false)
	var order []string
	for _, r := range all {
		order = append(order, r.ID)
	}
	if want := []string{"w", "x", "y", "z"}; !slices.Equal(order, want) {
		t.Fatalf("order %v, want %v", order, want)
	}
	l.note(all[0], nil)
	l.note(all[1], errors.New("the disk is full"))
	l.note(all[2], nil)
	if epoch, seq := l.acknowledgeable(); epoch != "a" || seq != 1 {
		t.Errorf("up to %d of %q may be acknowledged, want 1 of a: 2 is not recorded", seq, epoch)
	}
	l.acknowledged("a", 1)
	if got := l.pending(); !slices.Equal(got, []string{"x", "z"}) {
		t.Errorf("pending %v, want x and z", got)
	}
	l.note(all[1], nil)
	if _, seq := l.acknowledgeable(); seq != 3 {
		t.Errorf("up to %d may be acknowledged, want 3", seq)
	}
}

// The numbers of a monitor whose directory was lost mean nothing to the next:
// none of them may acknowledge an exit of the new exit log.
func TestExitListOfAnotherLog(t *testing.T) {
	l := newExitList()
	l.begin("a")
	for seq := range uint64(7) {
		l.put(Exit{ID: "old", Seq: seq + 1})
	}
	l.begin("b")
	l.put(Exit{ID: "new", Seq: 1})
	all := l.unrecorded(false)
	if len(all) != 8 {
		t.Fatalf("%d exits, want 8: those of the lost log count too", len(all))
	}
	for _, r := range all[:7] {
		l.note(r, nil)
	}
	if epoch, seq := l.acknowledgeable(); seq != 0 {
		t.Errorf("up to %d of %q may be acknowledged, want none: the one exit of b is not recorded", seq, epoch)
	}
	l.note(all[7], nil)
	if epoch, seq := l.acknowledgeable(); epoch != "b" || seq != 1 {
		t.Errorf("up to %d of %q may be acknowledged, want 1 of b", seq, epoch)
	}
	l.acknowledged("b", 1)
	if n := len(l.entries); n != 0 {
		t.Errorf("%d exits stay in the list", n)
	}
}

func TestExitListAwait(t *testing.T) {
	l := newExitList()
	first, leaveFirst := l.await("c")
	second, leaveSecond := l.await("c")
	leaveFirst()
	l.put(Exit{ID: "other", Seq: 1})
	select {
	case <-second:
		t.Error("told of another container's end")
	default:
	}
	l.put(Exit{ID: "c", Seq: 2})
	<-second
	leaveSecond()
	select {
	case <-first:
		t.Error("told after it had left")
	default:
	}
	if len(l.waiters) != 0 {
		t.Errorf("%d containers are still waited for", len(l.waiters))
	}
}

// Reconciliation that fails is tried again after a pause, and not once more when
// it has worked; exits are recorded meanwhile.
func TestReconcileIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		var tried []time.Duration
		var recorded []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.RunExits(ctx, ExitHandler{
				Record: func(_ context.Context, e Exit) error { recorded = append(recorded, e.ID); return nil },
				Reconcile: func(context.Context) error {
					if tried = append(tried, time.Since(began)); len(tried) <= 3 {
						return errors.New("the connection broke again")
					}
					return nil
				},
			})
		}()
		c.exits.connected(true)
		time.Sleep(exitRetry / 2)
		c.exits.put(Exit{ID: "meanwhile", Seq: 1})
		time.Sleep(time.Minute)
		stop()
		<-done
		if want := []time.Duration{0, exitRetry / 2, exitRetry, 2 * exitRetry}; !slices.Equal(tried, want) {
			t.Errorf("tried after %v, want %v", tried, want)
		}
		if !slices.Equal(recorded, []string{"meanwhile"}) {
			t.Errorf("recorded %v", recorded)
		}
	})
}
