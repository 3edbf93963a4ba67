// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cri-shim/cri-shim/pkg/keyed"
)

// Ops runs operations on the daemon's life, not on the life of the request
// that asked for them. Two requests for the same operation share one run.
type Ops struct {
	base    context.Context //nolint:containedctx // ends when the daemon does; set once in NewOps
	mu      sync.Mutex      // guards running
	running map[string]*op
	objects keyed.Lock
	wg      sync.WaitGroup
	fault   Fault // nil but in tests
}

type op struct {
	ops    *Ops
	name   string
	done   chan struct{}
	value  any
	err    error
	began  time.Time
	stage  atomic.Pointer[stage]
	traces []Span // touched only by the goroutine that runs the operation
}

type stage struct {
	name  string
	since time.Time
}

type opKey struct{}

// NewOps makes the place operations run in. They see base's values and its
// end, which means that the daemon shuts down.
func NewOps(base context.Context) *Ops {
	return &Ops{base: base, running: map[string]*op{}}
}

// Wait returns when no operation runs any more, or ctx ends; the error then
// names what still runs and at which stage. Call it after base has ended: what
// goes on after that waits for the kernel, such as for a file system that does
// not answer.
func (o *Ops) Wait(ctx context.Context) error {
	over := make(chan struct{})
	go func() { o.wg.Wait(); close(over) }()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	errs := []error{context.Cause(ctx)}
	for name, run := range o.running {
		errs = append(errs, run.late(name, context.Cause(ctx)))
	}
	return errors.Join(errs...)
}

// Do runs fn as the operation called name, or joins the run that is under way,
// and waits for its result or for the end of ctx, whichever comes first. fn
// goes on in the latter case and a repeated request joins it; the error then
// names the stage it is in.
func Do[T any](ctx context.Context, o *Ops, name string, fn func(ctx context.Context) (T, error)) (T, error) {
	run := o.join(name, func(ctx context.Context) (any, error) { return fn(ctx) })
	var none T
	select {
	case <-run.done:
	case <-ctx.Done():
		return none, run.late(name, context.Cause(ctx))
	}
	value, ok := run.value.(T)
	if !ok {
		return none, run.err
	}
	return value, run.err
}

// Go runs fn as an operation without a waiting caller; ended gets its error.
// While one of the same name runs, a second is not started.
func Go(o *Ops, name string, fn func(ctx context.Context) error, ended func(error)) {
	o.join(name, func(ctx context.Context) (any, error) {
		err := fn(ctx)
		ended(err)
		return nil, err
	})
}

// Alone runs fn as an operation that lives as long as the request that asked
// for it and that no other request joins: what only makes sense while somebody
// waits. Its steps and stages are like those of Do.
func Alone(ctx context.Context, o *Ops, name string, fn func(ctx context.Context) error) error {
	run := &op{ops: o, name: name, began: time.Now()}
	return fn(context.WithValue(ctx, opKey{}, run))
}

func (o *Ops) join(name string, fn func(context.Context) (any, error)) *op {
	o.mu.Lock()
	defer o.mu.Unlock()
	if run, ok := o.running[name]; ok {
		return run
	}
	run := &op{ops: o, name: name, done: make(chan struct{}), began: time.Now()}
	o.running[name] = run
	o.wg.Add(1)
	go o.run(name, run, fn)
	return run
}

func (o *Ops) run(name string, run *op, fn func(context.Context) (any, error)) {
	defer o.wg.Done()
	defer func() {
		if p := recover(); p != nil {
			run.err = fmt.Errorf("%s: panic: %v", name, p)
		}
		o.mu.Lock()
		delete(o.running, name)
		o.mu.Unlock()
		close(run.done)
	}()
	run.value, run.err = fn(context.WithValue(o.base, opKey{}, run))
}

// late explains to a caller that gives up what the operation is waiting for.
func (r *op) late(name string, cause error) error {
	if s := r.stage.Load(); s != nil {
		return fmt.Errorf("%s: still at %q for %s, it continues and a retry joins it: %w",
			name, s.name, time.Since(s.since).Round(time.Millisecond), cause)
	}
	return fmt.Errorf("%s: still waiting after %s: %w", name, time.Since(r.began).Round(time.Millisecond), cause)
}

// Stage notes which step the operation behind ctx is in. Callers that give up
// are told, and Trace returns how long each took.
func Stage(ctx context.Context, name string) {
	run, ok := ctx.Value(opKey{}).(*op)
	if !ok {
		return
	}
	now := time.Now()
	if s := run.stage.Swap(&stage{name: name, since: now}); s != nil {
		run.traces = append(run.traces, Span{Step: s.name, Took: now.Sub(s.since)})
	}
}

// AddSpans adds steps that ran side by side to what Trace returns.
func AddSpans(ctx context.Context, spans ...Span) {
	if run, ok := ctx.Value(opKey{}).(*op); ok {
		run.traces = append(run.traces, spans...)
	}
}

// Trace returns the stages of the operation behind ctx so far.
func Trace(ctx context.Context) []Span {
	run, ok := ctx.Value(opKey{}).(*op)
	if !ok {
		return nil
	}
	spans := append([]Span(nil), run.traces...)
	if s := run.stage.Load(); s != nil {
		spans = append(spans, Span{Step: s.name, Took: time.Since(s.since)})
	}
	return spans
}

// Lock takes the lock of one object for the operation behind ctx and returns
// its release. Order: a pod before its containers, never the other way round.
func (o *Ops) Lock(ctx context.Context, object string) (release func(), err error) {
	if err := o.objects.Lock(ctx, object); err != nil {
		return nil, fmt.Errorf("wait for %s: %w", object, err)
	}
	return func() { o.objects.Unlock(object) }, nil
}

// cleanupLimit bounds what must be undone although its operation was cut off.
const cleanupLimit = time.Minute

// Cleanup is a context for undoing what the operation behind ctx began: it goes
// on when the daemon shuts down, but not for ever.
func Cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
}
