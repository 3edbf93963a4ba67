// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one image as CRI sees it: everything that shares a config.
type Image struct {
	ID             string   // sha256:…, the digest of the config
	RepoTags       []string // full names, sorted
	RepoDigests    []string // name@digest of what was pulled, an index or a manifest; sorted
	Size           uint64   // bytes on disk: kept blobs and unpacked layers, shared ones included
	Pinned         bool     // never to be collected by the kubelet
	User           string   // as in the config: "", uid, name, or either with :group
	Config         ocispec.ImageConfig
	Annotations    map[string]string // of this platform's manifest
	ManifestDigest string            // of this platform's manifest
}

// Get finds an image by id (with or without sha256:, whole or a unique start of it) or by any form of its name.
// What it returns is shared: don't change it. Errors: ErrNotFound, ErrInvalidArgument for what can be neither or fits
// several.
func (s *Service) Get(ctx context.Context, ref string) (Image, error) {
	c, err := s.catalog(s.context(ctx))
	if err != nil {
		return Image{}, err
	}
	id, err := c.resolve(ref)
	if err != nil {
		return Image{}, err
	}
	img, ok := c.byID[id]
	if !ok {
		return Image{}, fmt.Errorf("image %q is damaged: %w", ref, errdefs.ErrNotFound)
	}
	return img, nil
}

// List returns all images, ordered by id. What it returns is shared, but for the slice: don't change it.
func (s *Service) List(ctx context.Context) ([]Image, error) {
	c, err := s.catalog(s.context(ctx))
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(c.byID), func(a, b Image) int { return strings.Compare(a.ID, b.ID) }), nil
}

// Info returns what a verbose image status shows: JSON texts by name.
func (s *Service) Info(ctx context.Context, ref string) (map[string]string, error) {
	ctx = s.context(ctx)
	img, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	id := img.ID
	rec, err := s.images.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	raw, err := content.ReadBlob(ctx, s.content, ocispec.Descriptor{Digest: digest.Digest(id)})
	if err != nil {
		return nil, fmt.Errorf("read image config %s: %w", id, err)
	}
	info, err := json.Marshal(map[string]any{"chainID": rec.Labels[labelChain], "imageSpec": json.RawMessage(raw)})
	return map[string]string{"info": string(info)}, err
}

func (s *Service) image(ctx context.Context, id string, recs []images.Image) (Image, error) {
	img := Image{ID: id}
	for _, rec := range recs {
		switch {
		case strings.Contains(rec.Name, "@"):
			img.RepoDigests = append(img.RepoDigests, rec.Name)
		case rec.Name != id:
			img.RepoTags = append(img.RepoTags, rec.Name)
		}
		if _, ok := rec.Labels[labelPinned]; ok {
			img.Pinned = true
		}
		if size, err := strconv.ParseUint(rec.Labels[labelSize], 10, 64); err == nil {
			img.Size = max(img.Size, size)
		}
		img.ManifestDigest = rec.Labels[labelManifest]
	}
	slices.Sort(img.RepoTags)
	slices.Sort(img.RepoDigests)
	var config ocispec.Image
	if err := s.readJSON(ctx, id, &config); err != nil {
		return img, err
	}
	var manifest struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := s.readJSON(ctx, img.ManifestDigest, &manifest); err != nil {
		return img, err
	}
	img.Config, img.User, img.Annotations = config.Config, config.Config.User, manifest.Annotations
	return img, nil
}

func (s *Service) readJSON(ctx context.Context, id string, v any) error {
	raw, err := content.ReadBlob(ctx, s.content, ocispec.Descriptor{Digest: digest.Digest(id)})
	if err != nil {
		return fmt.Errorf("read %s: %w", id, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("parse %s: %w: %w", id, err, errdefs.ErrDataLoss)
	}
	return nil
}
