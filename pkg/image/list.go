// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/blobs"
	"github.com/cri-shim/cri-shim/pkg/image/manifest"
)

// infoLimit is how many bytes of JSON a verbose status has at most. Clients take 16 MiB, and escapes can make a config of
// half that several times as long.
const infoLimit = 12 << 20

// Image is one image as CRI sees it: everything that shares a config.
type Image struct {
	ID             string              // sha256:…, the digest of the config
	RepoTags       []string            // full names, sorted
	RepoDigests    []string            // name@digest of what was pulled, an index or a manifest; sorted
	Size           uint64              // bytes on disk: kept blobs and unpacked layers, shared ones included
	Pinned         bool                // never to be collected by the kubelet
	User           string              // as in the config: "", uid, name, or either with :group
	Config         ocispec.ImageConfig // without what is only for people to read; only from Get
	Annotations    map[string]string   // of this platform's manifest, 32 KiB of them; List leaves them out if all images have too many
	ManifestDigest string              // of this platform's manifest, that of the last pull if names of the image have different ones
	large          bool                // Config is read when it is asked for
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
	if img.large {
		raw, err := blobs.Read(s.context(ctx), s.content, digest.Digest(id), manifest.ConfigLimit)
		if err != nil {
			return Image{}, fmt.Errorf("image %q: %w", ref, err)
		}
		spec, err := manifest.ParseConfig(raw, digest.Digest(id))
		if err != nil {
			return Image{}, err
		}
		img.Config = spec.Run()
	}
	return img, nil
}

// List returns all images, ordered by id. What it returns is shared, but for the slice: don't change it.
func (s *Service) List(ctx context.Context) ([]Image, error) {
	c, err := s.catalog(s.context(ctx))
	if err != nil {
		return nil, err
	}
	return slices.Clone(c.list), nil
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
	raw, err := blobs.Read(ctx, s.content, digest.Digest(id), manifest.ConfigLimit)
	if err != nil {
		return nil, fmt.Errorf("read image config: %w", err)
	}
	info, err := json.Marshal(map[string]any{"chainID": rec.Labels[labelChain], "imageSpec": json.RawMessage(raw)})
	if err == nil && len(info) > infoLimit {
		info, err = json.Marshal(map[string]any{
			"chainID":          rec.Labels[labelChain],
			"imageSpecOmitted": fmt.Sprintf("%d bytes are more than an answer holds", len(info)),
		})
	}
	return map[string]string{"info": string(info)}, err
}

func (s *Service) image(ctx context.Context, id string, recs []images.Image, known descriptions) (Image, error) {
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
		if rec.Name == id || img.ManifestDigest == "" { // each pull writes the record of that name
			img.ManifestDigest = rec.Labels[labelManifest]
		}
	}
	slices.Sort(img.RepoTags)
	slices.Sort(img.RepoDigests)
	own, ok := known[descriptionKey{id, img.ManifestDigest}]
	if !ok {
		var err error
		if own, err = s.describe(ctx, digest.Digest(id), digest.Digest(img.ManifestDigest)); err != nil {
			return img, err
		}
	}
	img.Config, img.User, img.Annotations, img.large = own.config, own.user, own.annotations, own.large
	return img, nil
}
