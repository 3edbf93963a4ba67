// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	manifestLimit = 4 << 20 // bytes
	configLimit   = 8 << 20 // bytes
	indexDepth    = 4       // indexes inside indexes
)

// selection is the part of an image that this node runs: one manifest of what may be an index of many.
type selection struct {
	manifest ocispec.Descriptor
	config   ocispec.Descriptor
	layers   []ocispec.Descriptor
	chain    digest.Digest                          // of the top layer; "" without layers
	children map[digest.Digest][]ocispec.Descriptor // of each index and the manifest, for the unpacker
}

// document is an index or a manifest.
type document struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Config       ocispec.Descriptor   `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
}

// choose fetches index, manifest and config and refuses what can't run here, before a layer is downloaded.
// Errors: ErrFailedPrecondition for another platform, ErrInvalidArgument for artifacts and malformed images.
func (s *Service) choose(ctx context.Context, f remotes.Fetcher, root ocispec.Descriptor) (selection, error) {
	sel := selection{children: map[digest.Digest][]ocispec.Descriptor{}}
	var (
		desc   = root
		chosen bool // an index says this is for our platform
		doc    document
	)
	for depth := 0; ; depth++ {
		var err error
		if doc, err = s.document(ctx, f, desc); err != nil {
			return sel, err
		}
		if images.IsManifestType(desc.MediaType) {
			break
		}
		if depth == indexDepth {
			return sel, fmt.Errorf("more than %d indexes inside each other: %w", indexDepth, errdefs.ErrInvalidArgument)
		}
		next, err := s.pick(doc.Manifests)
		if err != nil {
			return sel, err
		}
		sel.children[desc.Digest] = []ocispec.Descriptor{next}
		desc, chosen = next, chosen || next.Platform != nil
	}
	sel.manifest, sel.config, sel.layers = desc, doc.Config, doc.Layers
	if sel.config.MediaType == docker.LegacyConfigMediaType {
		sel.config.MediaType = images.MediaTypeDockerSchema2Config // what old clients pushed
	}
	if err := checkRunnable(doc, sel.config); err != nil {
		return sel, err
	}
	sel.children[desc.Digest] = append([]ocispec.Descriptor{sel.config}, sel.layers...)
	return sel, s.checkConfig(ctx, f, &sel, chosen)
}

func (s *Service) document(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) (document, error) {
	var doc document
	if desc.MediaType == images.MediaTypeDockerSchema1Manifest {
		return doc, fmt.Errorf("docker schema 1 manifests are not supported, push the image again: %w", errdefs.ErrInvalidArgument)
	}
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		return doc, fmt.Errorf("media type %q is neither an image nor an index: %w", desc.MediaType, errdefs.ErrInvalidArgument)
	}
	raw, err := s.read(ctx, f, desc, manifestLimit)
	if err != nil {
		return doc, err
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return doc, fmt.Errorf("parse manifest %s: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	if doc.MediaType != "" && doc.MediaType != desc.MediaType {
		return doc, fmt.Errorf("manifest %s says it is %q, expected %q: %w", desc.Digest, doc.MediaType, desc.MediaType, errdefs.ErrInvalidArgument)
	}
	return doc, nil
}

// pick takes the best entry of an index: one for this platform, else the only one that doesn't say.
func (s *Service) pick(entries []ocispec.Descriptor) (ocispec.Descriptor, error) {
	var fit, silent []ocispec.Descriptor
	var offered []string
	for _, d := range entries {
		switch {
		case !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType), d.ArtifactType != "":
		case d.Platform == nil:
			silent = append(silent, d)
		case s.platform.Match(*d.Platform):
			fit = append(fit, d)
		case d.Platform.OS != "unknown": // attestations
			offered = append(offered, platforms.FormatAll(*d.Platform))
		}
	}
	if len(fit) > 0 {
		slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
			switch {
			case s.platform.Less(*a.Platform, *b.Platform):
				return -1
			case s.platform.Less(*b.Platform, *a.Platform):
				return 1
			}
			return 0
		})
		return fit[0], nil
	}
	if len(silent) == 1 {
		return silent[0], nil
	}
	slices.Sort(offered)
	return ocispec.Descriptor{}, fmt.Errorf("no image for this node's platform %s, only for: %s: %w",
		platforms.DefaultString(), strings.Join(slices.Compact(offered), ", "), errdefs.ErrFailedPrecondition)
}

// checkRunnable refuses artifacts: they share one empty config, so one image id would stand for all of them.
func checkRunnable(doc document, config ocispec.Descriptor) error {
	if !images.IsConfigType(config.MediaType) {
		kind := doc.ArtifactType
		if kind == "" {
			kind = config.MediaType
		}
		return fmt.Errorf("this is an OCI artifact (%s), not an image that can run: %w", kind, errdefs.ErrInvalidArgument)
	}
	for _, l := range doc.Layers {
		if !images.IsLayerType(l.MediaType) {
			return fmt.Errorf("layer %s has unknown media type %q: %w", l.Digest, l.MediaType, errdefs.ErrInvalidArgument)
		}
		if err := l.Digest.Validate(); err != nil {
			return fmt.Errorf("layer digest %q: %w: %w", l.Digest, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (s *Service) checkConfig(ctx context.Context, f remotes.Fetcher, sel *selection, chosen bool) error {
	raw, err := s.read(ctx, f, sel.config, configLimit)
	if err != nil {
		return err
	}
	var spec ocispec.Image
	if err := json.Unmarshal(raw, &spec); err != nil {
		return fmt.Errorf("parse image config %s: %w: %w", sel.config.Digest, err, errdefs.ErrInvalidArgument)
	}
	if !chosen && spec.Architecture != "" && !s.platform.Match(spec.Platform) {
		return fmt.Errorf("the image is for %s, this node is %s: %w",
			platforms.FormatAll(spec.Platform), platforms.DefaultString(), errdefs.ErrFailedPrecondition)
	}
	ids := spec.RootFS.DiffIDs
	if len(ids) != len(sel.layers) {
		return fmt.Errorf("image has %d layers but %d diff ids: %w", len(sel.layers), len(ids), errdefs.ErrInvalidArgument)
	}
	if len(ids) > 0 {
		sel.chain = identity.ChainID(slices.Clone(ids))
	}
	return nil
}
