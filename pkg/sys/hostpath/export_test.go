// SPDX-License-Identifier: Apache-2.0

package hostpath

import (
	"context"
	"time"
)

// LimitPaths is Limited with another limit.
func LimitPaths(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return limited(ctx, limit)
}

// Ask runs look as the calls of Paths do theirs.
func (h *Paths) Ask(ctx context.Context, path string, look func() error) error {
	return h.ask(ctx, "test", path, look)
}

// WalkWithin is Walk with another limit.
func (h *Paths) WalkWithin(ctx context.Context, path string, limit time.Duration, walk func(context.Context) error) error {
	return h.walk(ctx, "test", path, limit, walk)
}
