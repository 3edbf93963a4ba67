// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetch brings one blob into the content store, going on where an earlier attempt stopped. A blob that doesn't match
// its digest is thrown away. When going on was refused (some registries answer 416 to an open range), or what came of it
// doesn't match, it starts once more from nothing; without that a bad partial blob would fail every later pull.
func (s *Service) fetch(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) error {
	desc.URLs = nil // addresses in a manifest are the image author's, and would be asked with the default client
	resumed := s.partial(ctx, desc)
	err := s.fetchOnce(ctx, f, desc)
	if err == nil || ctx.Err() != nil || unavailable(err) {
		return err
	}
	if aerr := s.dropPartial(ctx, desc); aerr != nil {
		return errors.Join(err, aerr)
	}
	if !resumed || errdefs.IsNotFound(err) {
		return err
	}
	err = s.fetchOnce(ctx, f, desc)
	if errors.Is(err, errCorrupt) {
		return errors.Join(err, s.dropPartial(ctx, desc))
	}
	return err
}

func (s *Service) fetchOnce(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) error {
	err := remotes.Fetch(ctx, s.content, f, desc)
	switch {
	case err == nil, errdefs.IsAlreadyExists(err):
		return nil
	case errdefs.IsFailedPrecondition(err): // the store's word for a size or digest that differs
		return fmt.Errorf("fetch %s: %w: %w", desc.Digest, err, errCorrupt)
	default:
		return fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
}

// partial says whether an earlier attempt left bytes of this blob.
func (s *Service) partial(ctx context.Context, desc ocispec.Descriptor) bool {
	st, err := s.content.Status(ctx, remotes.MakeRefKey(ctx, desc))
	return err == nil && st.Offset > 0
}

func (s *Service) dropPartial(ctx context.Context, desc ocispec.Descriptor) error {
	err := s.content.Abort(ctx, remotes.MakeRefKey(ctx, desc))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("drop partial blob %s: %w", desc.Digest, err)
	}
	return nil
}

// read fetches a blob of at most limit bytes and returns it. A stored blob that is gone or damaged is fetched anew.
func (s *Service) read(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("%s of %d bytes is larger than %d: %w", desc.MediaType, desc.Size, limit, errdefs.ErrInvalidArgument)
	}
	raw, err := s.readOnce(ctx, f, desc)
	if !errors.Is(err, errStored) {
		return raw, err
	}
	s.log.ErrorContext(ctx, "stored blob is damaged: fetching it again", "err", err)
	if err := s.content.Delete(ctx, desc.Digest); err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("delete damaged blob: %w", err)
	}
	if _, err := s.meta.GarbageCollect(ctx); err != nil { // or the store would find the damaged file again
		return nil, fmt.Errorf("delete damaged blob: %w", err)
	}
	return s.readOnce(ctx, f, desc)
}

func (s *Service) readOnce(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	if err := s.fetch(ctx, f, desc); err != nil {
		return nil, err
	}
	raw, err := content.ReadBlob(ctx, s.content, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w: %w", desc.Digest, errStored, err)
	}
	if desc.Digest.Algorithm().FromBytes(raw) != desc.Digest {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errStored)
	}
	return raw, nil
}

// fetcher is the handler that the unpacker calls for what it has to have.
func (s *Service) fetcher(f remotes.Fetcher) images.HandlerFunc {
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return nil, s.fetch(ctx, f, desc)
	}
}
