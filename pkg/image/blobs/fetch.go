// SPDX-License-Identifier: Apache-2.0

// Package blobs fills the content store with blobs that are what their descriptors say.
//
// A download goes on where an earlier one stopped, and begins anew when what came of that is wrong. What is read into
// memory has a limit, whatever a descriptor claims.
//
// The package doesn't know what is in a blob, and frees nothing but those that are damaged.
package blobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/registry"
)

// errStored: a blob is damaged on our own disk.
var errStored = fmt.Errorf("damaged on disk: %w", errdefs.ErrDataLoss)

// Store is the content store, which is filled from registries and image layouts. All methods may be called at once
// from any goroutine.
type Store struct {
	content.Store

	meta *metadata.DB // what Store is part of
	log  *slog.Logger
}

// New makes the store of what meta keeps.
func New(meta *metadata.DB, log *slog.Logger) *Store {
	return &Store{meta.ContentStore(), meta, log}
}

// fetch brings one blob into the content store, going on where an earlier attempt stopped. A blob that doesn't match
// its digest is thrown away. When going on was refused (some registries answer 416 to an open range), or what came of it
// doesn't match, it starts once more from nothing; without that a bad partial blob would fail every later pull.
func (s *Store) fetch(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) error {
	desc.URLs = nil // addresses in a manifest are the image author's, and would be asked with the default client
	if isEmpty(desc) {
		return s.writeEmpty(ctx, desc)
	}
	resumed := s.partial(ctx, desc)
	err := s.fetchOnce(ctx, f, desc)
	if err == nil || ctx.Err() != nil || registry.Unavailable(err) {
		return err
	}
	if aerr := s.dropPartial(ctx, desc); aerr != nil {
		return errors.Join(err, aerr)
	}
	if !resumed || errdefs.IsNotFound(err) {
		return err
	}
	err = s.fetchOnce(ctx, f, desc)
	if errors.Is(err, registry.ErrCorrupt) {
		return errors.Join(err, s.dropPartial(ctx, desc))
	}
	return err
}

func (s *Store) fetchOnce(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) error {
	err := remotes.Fetch(ctx, s.Store, f, desc)
	switch {
	case err == nil:
		return nil
	case errdefs.IsAlreadyExists(err):
		return s.checkSize(ctx, desc)
	case errdefs.IsFailedPrecondition(err): // the store's word for a size or digest that differs
		return fmt.Errorf("fetch %s: %w: %w", desc.Digest, err, registry.ErrCorrupt)
	default:
		return fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
}

// partial says whether an earlier attempt left bytes of this blob.
func (s *Store) partial(ctx context.Context, desc ocispec.Descriptor) bool {
	st, err := s.Status(ctx, remotes.MakeRefKey(ctx, desc))
	return err == nil && st.Offset > 0
}

func (s *Store) dropPartial(ctx context.Context, desc ocispec.Descriptor) error {
	err := s.Abort(ctx, remotes.MakeRefKey(ctx, desc))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("drop partial blob %s: %w", desc.Digest, err)
	}
	return nil
}

// checkSize refuses a descriptor that gives a stored blob another size. The store takes the digest's word for it, but
// what is decided by the size, whether to read a blob into memory for one, must not rest on a claim.
func (s *Store) checkSize(ctx context.Context, desc ocispec.Descriptor) error {
	info, err := s.Info(ctx, desc.Digest)
	if err != nil {
		return fmt.Errorf("find blob %s: %w", desc.Digest, err)
	}
	if info.Size != desc.Size {
		return fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", desc.Digest, info.Size, desc.Size, errdefs.ErrInvalidArgument)
	}
	return nil
}

// isEmpty: a blob of no bytes, which the registry client refuses to fetch.
func isEmpty(desc ocispec.Descriptor) bool {
	return desc.Size == 0 && desc.Digest.Validate() == nil && desc.Digest.Algorithm().FromBytes(nil) == desc.Digest
}

func (s *Store) writeEmpty(ctx context.Context, desc ocispec.Descriptor) error {
	if err := content.WriteBlob(ctx, s.Store, remotes.MakeRefKey(ctx, desc), bytes.NewReader(nil), desc); err != nil {
		return fmt.Errorf("write empty blob %s: %w", desc.Digest, err)
	}
	return nil
}

// FetchSmall fetches a blob of at most limit bytes and returns it. A stored blob that is gone or damaged is fetched anew.
func (s *Store) FetchSmall(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
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
	if err := s.Delete(ctx, desc.Digest); err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("delete damaged blob: %w", err)
	}
	if _, err := s.meta.GarbageCollect(ctx); err != nil { // or the store would find the damaged file again
		return nil, fmt.Errorf("delete damaged blob: %w", err)
	}
	return s.readOnce(ctx, f, desc)
}

func (s *Store) readOnce(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	if err := s.fetch(ctx, f, desc); err != nil {
		return nil, err
	}
	raw, err := Read(ctx, s.Store, desc.Digest, desc.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStored, err)
	}
	if desc.Digest.Algorithm().FromBytes(raw) != desc.Digest {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errStored)
	}
	return raw, nil
}

// Read returns a stored blob of at most limit bytes, whatever its descriptor says of its size.
func Read(ctx context.Context, store content.Provider, d digest.Digest, limit int64) ([]byte, error) {
	blob, err := store.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	defer blob.Close()
	if blob.Size() > limit {
		return nil, fmt.Errorf("blob %s of %d bytes is larger than %d: %w", d, blob.Size(), limit, errdefs.ErrInvalidArgument)
	}
	raw := make([]byte, blob.Size())
	if _, err := io.ReadFull(content.NewReader(blob), raw); err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	return raw, nil
}

// Handler is the handler that the unpacker calls for what it has to have.
func (s *Store) Handler(f remotes.Fetcher) images.HandlerFunc {
	return func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return nil, s.fetch(ctx, f, desc)
	}
}
