// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/manifest"
)

// catalog is all images as of one moment. It is never changed.
type catalog struct {
	byID map[string]Image
	ids  map[string]string // of each name
	list []Image           // ordered by id, with no more annotations than an answer holds
	seen descriptions      // of the images in byID
}

// catalogCache keeps the catalog between changes: containers are created, and images listed, far more often than images
// come and go. The zero value is ready.
type catalogCache struct {
	mu      sync.Mutex // guards the rest
	changes uint64
	now     *catalog     // nil: to be read
	last    descriptions // of the catalog before: they hold for as long as the image is there
}

// changed is called after each committed change of image records.
func (c *catalogCache) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	if c.now != nil {
		c.last = c.now.seen
	}
	c.now = nil
}

func (c *catalogCache) get() (*catalog, descriptions, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.last, c.changes
}

// keep stores what was read, unless something changed in the meantime.
func (c *catalogCache) keep(read *catalog, since uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == since {
		c.now = read
	}
}

func (s *Service) catalog(ctx context.Context) (*catalog, error) {
	now, known, since := s.known.get()
	if now != nil {
		return now, nil
	}
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	c := &catalog{byID: map[string]Image{}, ids: map[string]string{}, seen: descriptions{}}
	groups := map[string][]images.Image{}
	for _, rec := range all {
		id := rec.Labels[labelConfig]
		groups[id] = append(groups[id], rec)
	}
	for id, recs := range groups {
		img, err := s.image(ctx, id, recs, known)
		for _, rec := range recs {
			c.ids[rec.Name] = id
		}
		if err != nil { // one image must not take the others with it; a pull makes it whole
			s.log.ErrorContext(ctx, "image is damaged: not listed", "image", id, "err", err)
			continue
		}
		c.byID[id] = img
		c.seen[descriptionKey{id, img.ManifestDigest}] = described{img.Config, img.User, img.Annotations, img.large}
	}
	if c.makeList() {
		s.log.WarnContext(ctx, "images have more annotations than an answer holds: lists of images have none", "bytes", listLimit)
	}
	s.known.keep(c, since)
	return c, nil
}

// makeList says whether annotations had to be left out.
func (c *catalog) makeList() (short bool) {
	c.list = slices.SortedFunc(maps.Values(c.byID), func(a, b Image) int { return strings.Compare(a.ID, b.ID) })
	bytes := 0
	for _, img := range c.list {
		bytes += manifest.AnnotationBytes(img.Annotations)
	}
	for i := range c.list {
		c.list[i].Config = ocispec.ImageConfig{}
		if bytes > listLimit {
			c.list[i].Annotations = nil
		}
	}
	return bytes > listLimit
}

// resolve turns any way to name an image into its id. It may be that of a damaged image, which has no entry.
func (c *catalog) resolve(ref string) (string, error) {
	if wholeID.MatchString(ref) {
		id := "sha256:" + strings.TrimPrefix(ref, "sha256:")
		if _, ok := c.ids[id]; !ok {
			return "", fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
		}
		return id, nil
	}
	named, err := normalize(ref)
	if err == nil {
		if id, ok := c.ids[named.String()]; ok {
			return id, nil
		}
	}
	if idStart.MatchString(ref) {
		return c.resolveStart(ref)
	}
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

func (c *catalog) resolveStart(ref string) (string, error) {
	start, found := "sha256:"+strings.TrimPrefix(ref, "sha256:"), ""
	for id := range c.byID {
		if !strings.HasPrefix(id, start) {
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
