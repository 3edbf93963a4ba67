// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/blobs"
	"github.com/cri-shim/cri-shim/pkg/image/manifest"
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
	raw, err := blobs.Read(ctx, s.content, configID, manifest.ConfigLimit)
	if err != nil {
		return described{}, err
	}
	spec, err := manifest.ParseConfig(raw, configID)
	if err != nil {
		return described{}, err
	}
	c := described{user: spec.Config.User, large: len(raw) > configKept}
	if !c.large {
		c.config = spec.Run()
	}
	if raw, err = blobs.Read(ctx, s.content, manifestID, manifest.ManifestLimit); err != nil {
		return c, err
	}
	doc, err := manifest.Parse(raw, ocispec.Descriptor{Digest: manifestID, MediaType: ocispec.MediaTypeImageManifest})
	if err != nil {
		return c, err
	}
	c.annotations, _ = manifest.ShownAnnotations(doc.Annotations)
	return c, nil
}
