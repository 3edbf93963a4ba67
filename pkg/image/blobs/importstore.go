// SPDX-License-Identifier: Apache-2.0

package blobs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImportStore is what one archive is read into. It bounds what the import reads into memory, and looks up what the import
// walks the store for.
type ImportStore struct {
	content.Store

	limit    int64
	unpacked map[string][]content.Info // blobs by the digest of what they unpack to; nil: to be read
}

// NewImportStore takes blobs that are no layers only up to limit bytes.
func NewImportStore(store content.Store, limit int64) *ImportStore {
	return &ImportStore{Store: store, limit: limit}
}

// ReaderAt opens a blob, one that the import reads as a whole only if it is small.
func (s *ImportStore) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	blob, err := s.Store.ReaderAt(ctx, desc)
	if err != nil || desc.MediaType == "" || images.IsLayerType(desc.MediaType) || blob.Size() <= s.limit {
		return blob, err
	}
	return nil, errors.Join(blob.Close(), fmt.Errorf("%s of %d bytes is larger than %d: %w",
		desc.MediaType, blob.Size(), s.limit, errdefs.ErrInvalidArgument))
}

// Walk calls fn for the blobs that unpack to what the filters name: one for each layer of an image, each of which a real
// walk, one for each image, would try on each blob of the store.
func (s *ImportStore) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	if s.unpacked == nil {
		s.unpacked = map[string][]content.Info{}
		err := s.Store.Walk(ctx, func(i content.Info) error {
			d := i.Labels[labels.LabelUncompressed]
			s.unpacked[d] = append(s.unpacked[d], i)
			return nil
		}, fmt.Sprintf("labels.%q", labels.LabelUncompressed))
		if err != nil {
			return err
		}
	}
	for _, f := range filters {
		_, d, _ := strings.Cut(f, "==")
		for _, i := range s.unpacked[d] {
			if err := fn(i); err != nil {
				return err
			}
		}
	}
	return nil
}
