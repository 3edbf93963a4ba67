// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// untakenLimit is how long a client may leave output untaken once the container
// has ended: what a pipe holds, 64 KiB. While the container runs only the
// client's own life bounds it.
const untakenLimit = 15 * time.Second

// errUntaken is told to a client that left output untaken for that long.
var errUntaken = fmt.Errorf("output truncated: the container has ended, and the client has not read for %s: %w", untakenLimit, errdefs.ErrDataLoss)

// WhileOwed makes a context that ends untakenLimit after the container, with
// an error of class ErrDataLoss: for what waits for a client to take output.
// awaitEnd returns once the container has ended. leave frees the context.
func WhileOwed(ctx context.Context, awaitEnd func(context.Context) error) (owed context.Context, leave func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		_ = awaitEnd(ctx) // an end that cannot be recorded is one
		select {
		case <-time.After(untakenLimit):
			cancel(errUntaken)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
