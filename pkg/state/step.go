// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"fmt"
)

// Step is one idempotent part of an operation.
type Step struct {
	Name string // what is being done, for traces and error texts: "mount root filesystem"
	Do   func(context.Context) error
}

// Steps runs steps in order and stops at the first that fails, with its name in
// the error. Each is a Stage of the operation behind ctx.
func Steps(ctx context.Context, steps ...Step) error {
	for _, step := range steps {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("%s: not started: %w", step.Name, err)
		}
		Stage(ctx, step.Name)
		if err := fault(ctx, step.Name, before); err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		if err := step.Do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		if err := fault(ctx, step.Name, after); err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
	}
	return nil
}

// Moment is a point between two steps.
type Moment string

// A fault can strike before a step has begun, within it at a Point, and after
// it is done.
const (
	before Moment = "before"
	within Moment = "within"
	after  Moment = "after"
)

// Point is a place within a step where a fault can strike: between side effects
// that run side by side, or in what is no list of steps. It does nothing else,
// and any goroutine of the operation may pass it.
func Point(ctx context.Context, name string) error {
	if err := fault(ctx, name, within); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Fault is asked between steps of every operation, for tests that fail or kill
// the daemon at each of them. An error makes the step fail.
type Fault func(operation, step string, m Moment) error

// InjectFaults makes operations ask f from now on. Call it before the first.
func (o *Ops) InjectFaults(f Fault) { o.fault = f }

func fault(ctx context.Context, step string, m Moment) error {
	run, ok := ctx.Value(opKey{}).(*op)
	if !ok || run.ops.fault == nil {
		return nil
	}
	return run.ops.fault(run.name, step, m)
}
