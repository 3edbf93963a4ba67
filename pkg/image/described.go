// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	listLimit  = 4 << 20  // bytes of them that a list of images has; clients take 16 MiB in all
	configKept = 64 << 10 // bytes: the config of an image with a larger one is not held in memory
)

// described is what the blobs of an image say of it. They never change.
type described struct {
	config      ocispec.ImageConfig // empty if large
	user        string
	annotations map[string]string
	large       bool
}

// descriptions are those that were read, by the digests they come from.
type descriptions map[descriptionKey]described

type descriptionKey struct{ config, manifest string }

func (s *Service) describe(ctx context.Context, configID, manifestID digest.Digest) (described, error) {
	raw, err := readBlob(ctx, s.content, configID, configLimit)
	if err != nil {
		return described{}, err
	}
	spec, err := parseConfig(raw, configID)
	if err != nil {
		return described{}, err
	}
	c := described{user: spec.Config.User, large: len(raw) > configKept}
	if !c.large {
		c.config = spec.run()
	}
	if raw, err = readBlob(ctx, s.content, manifestID, manifestLimit); err != nil {
		return c, err
	}
	doc, err := parseDocument(raw, ocispec.Descriptor{Digest: manifestID, MediaType: ocispec.MediaTypeImageManifest})
	if err != nil {
		return c, err
	}
	c.annotations, _ = shownAnnotations(doc.Annotations)
	return c, nil
}
