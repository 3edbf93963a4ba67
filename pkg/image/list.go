// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
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
// Errors: ErrNotFound, ErrInvalidArgument for what can be neither or fits several.
func (s *Service) Get(ctx context.Context, ref string) (Image, error) {
	ctx = s.context(ctx)
	id, err := s.resolve(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	recs, err := s.recordsOf(ctx, id)
	if err != nil {
		return Image{}, err
	}
	return s.image(ctx, id, recs)
}

// List returns all images, ordered by id.
func (s *Service) List(ctx context.Context) ([]Image, error) {
	ctx = s.context(ctx)
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	groups := map[string][]images.Image{}
	for _, rec := range all {
		id := rec.Labels[labelConfig]
		groups[id] = append(groups[id], rec)
	}
	out := make([]Image, 0, len(groups))
	for id, recs := range groups {
		img, err := s.image(ctx, id, recs)
		if errdefs.IsNotFound(err) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b Image) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Info returns what a verbose image status shows: JSON texts by name.
func (s *Service) Info(ctx context.Context, ref string) (map[string]string, error) {
	ctx = s.context(ctx)
	id, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
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

// resolve turns any way to name an image into its id.
func (s *Service) resolve(ctx context.Context, ref string) (string, error) {
	if wholeID.MatchString(ref) {
		id := "sha256:" + strings.TrimPrefix(ref, "sha256:")
		if _, err := s.images.Get(ctx, id); err != nil {
			return "", fmt.Errorf("image %q: %w", ref, err)
		}
		return id, nil
	}
	named, err := normalize(ref)
	if err == nil {
		rec, err := s.images.Get(ctx, named.String())
		if err == nil {
			return rec.Labels[labelConfig], nil
		}
		if !errdefs.IsNotFound(err) {
			return "", fmt.Errorf("image %q: %w", ref, err)
		}
	}
	if idStart.MatchString(ref) {
		return s.resolveStart(ctx, ref)
	}
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

func (s *Service) resolveStart(ctx context.Context, ref string) (string, error) {
	all, err := s.images.List(ctx)
	if err != nil {
		return "", fmt.Errorf("list images: %w", err)
	}
	start, found := "sha256:"+strings.TrimPrefix(ref, "sha256:"), ""
	for _, rec := range all {
		id := rec.Labels[labelConfig]
		if !strings.HasPrefix(id, start) || id == found {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("image id %q fits several images: %w", ref, errdefs.ErrInvalidArgument)
		}
		found = id
	}
	if found == "" {
		return "", fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	}
	return found, nil
}

// recordsOf returns all names of an image.
func (s *Service) recordsOf(ctx context.Context, id string) ([]images.Image, error) {
	recs, err := s.images.List(ctx, fmt.Sprintf("labels.%q==%s", labelConfig, id))
	if err != nil {
		return nil, fmt.Errorf("list names of image %s: %w", id, err)
	}
	if len(recs) == 0 {
		return nil, fmt.Errorf("image %s: %w", id, errdefs.ErrNotFound)
	}
	return recs, nil
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
