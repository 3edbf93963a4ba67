// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// guarded keeps what an image makes the libraries panic at from taking the daemon along. It reaches no further than the
// goroutine that it runs on: what the libraries call on their own has [guardedHandler] and [guardedApplier].
func guarded[T any](ctx context.Context, fn func(context.Context) (T, error)) (out T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v: %w", p, errdefs.ErrInternal)
		}
	}()
	return fn(ctx)
}

func guardedHandler(h images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return guarded(ctx, func(ctx context.Context) ([]ocispec.Descriptor, error) { return h.Handle(ctx, desc) })
	})
}

type guardedApplier struct{ diff.Applier }

// Apply is that of the applier.
func (a guardedApplier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	return guarded(ctx, func(ctx context.Context) (ocispec.Descriptor, error) {
		return a.Applier.Apply(ctx, desc, mounts, opts...)
	})
}
