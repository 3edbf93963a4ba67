// SPDX-License-Identifier: Apache-2.0

// Package manifest reads indexes, manifests and configs of images, and chooses the one image of an index that this node
// runs.
//
// What can't run here, or isn't what its media type says, is refused before a layer is downloaded. All limits on what an
// image's author may write into these documents are here.
//
// The package fetches through package blobs and keeps nothing.
package manifest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ManifestLimit and ConfigLimit are the largest documents that are read, in bytes.
const (
	ManifestLimit = 4 << 20
	ConfigLimit   = 8 << 20
)

const (
	layerLimit  = 500  // layers of an image: OVL_MAX_STACK in Linux's fs/overlayfs, which takes no more
	userLimit   = 1024 // bytes of a config's user; shadow's names have at most 32
	volumeLimit = 1024 // volumes that an image may declare: each is a directory and a mount of every container
)

// Document is an index or a manifest.
type Document struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	FSLayers     []struct{}           `json:"fsLayers"` // docker schema 1
	Annotations  map[string]string    `json:"annotations"`
}

// Config is what of an image config is needed to choose, unpack and run the image. What else is in it, a "created"
// that is not a valid time, does not matter here.
type Config struct {
	ocispec.Platform
	Config ocispec.ImageConfig `json:"config"`
	RootFS struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

func (c *chooser) document(ctx context.Context, desc ocispec.Descriptor) (Document, error) {
	if desc.MediaType == images.MediaTypeDockerSchema1Manifest {
		return Document{}, errSchema1
	}
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		return Document{}, fmt.Errorf("media type %q is neither an image nor an index: %w", desc.MediaType, errdefs.ErrInvalidArgument)
	}
	raw, err := c.store.FetchSmall(ctx, c.from, desc, ManifestLimit)
	if err != nil {
		return Document{}, err
	}
	return Parse(raw, desc)
}

var errSchema1 = fmt.Errorf("docker schema 1 manifests are not supported, push the image again: %w", errdefs.ErrInvalidArgument)

// Parse reads an index or a manifest, whichever the descriptor says it is. One that says of itself that it is
// the other, or has the parts of both, would be two images to two readers (CVE-2021-41190), and is refused.
func Parse(raw []byte, desc ocispec.Descriptor) (Document, error) {
	var doc Document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return doc, fmt.Errorf("parse manifest %s: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	if doc.FSLayers != nil || doc.MediaType == images.MediaTypeDockerSchema1Manifest {
		return doc, errSchema1
	}
	index, manifest := doc.Manifests != nil, doc.Config != nil || doc.Layers != nil
	if index && manifest {
		return doc, fmt.Errorf("document %s is an index and a manifest at once: %w", desc.Digest, errdefs.ErrInvalidArgument)
	}
	if images.IsIndexType(desc.MediaType) {
		manifest = manifest || images.IsManifestType(doc.MediaType)
	} else {
		manifest = !index && !images.IsIndexType(doc.MediaType)
	}
	if manifest != images.IsManifestType(desc.MediaType) {
		return doc, fmt.Errorf("document %s does not match its media type %q, its own media type is %q: %w",
			desc.Digest, desc.MediaType, doc.MediaType, errdefs.ErrInvalidArgument)
	}
	return doc, nil
}

// checkRunnable refuses artifacts: they share one empty config, so one image id would stand for all of them.
func checkRunnable(doc Document) error {
	if doc.Config == nil {
		return fmt.Errorf("manifest has no config: %w", errdefs.ErrInvalidArgument)
	}
	if !images.IsConfigType(doc.Config.MediaType) {
		kind := doc.ArtifactType
		if kind == "" {
			kind = doc.Config.MediaType
		}
		return unfit{fmt.Errorf("this is an OCI artifact (%s), not an image that can run: %w", kind, errdefs.ErrInvalidArgument)}
	}
	if len(doc.Layers) > layerLimit {
		return fmt.Errorf("image has %d layers, overlayfs takes %d: %w", len(doc.Layers), layerLimit, errdefs.ErrInvalidArgument)
	}
	for _, l := range doc.Layers {
		if !images.IsLayerType(l.MediaType) {
			return unfit{fmt.Errorf("layer %s has unknown media type %q: %w", l.Digest, l.MediaType, errdefs.ErrInvalidArgument)}
		}
		if err := l.Digest.Validate(); err != nil {
			return fmt.Errorf("layer digest %q: %w: %w", l.Digest, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// ParseConfig reads an image config.
func ParseConfig(raw []byte, d digest.Digest) (Config, error) {
	var c Config
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("parse image config %s: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	if n := len(c.Config.User); n > userLimit { // it is in every list of images, and can't be left out
		return c, fmt.Errorf("the image's user has %d bytes, more than %d: %w", n, userLimit, errdefs.ErrInvalidArgument)
	}
	if n := len(c.Config.Volumes); n > volumeLimit {
		return c, fmt.Errorf("the image declares %d volumes, more than %d: %w", n, volumeLimit, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

// Run is the config without what containers are not made from.
func (c Config) Run() ocispec.ImageConfig {
	config := c.Config
	config.Labels, config.ExposedPorts = nil, nil
	return config
}

// checkLayers: a config belongs to an image of so many layers.
func (c Config) checkLayers(layers int) error {
	if ids := len(c.RootFS.DiffIDs); ids != layers {
		return fmt.Errorf("image has %d layers but %d diff ids: %w", layers, ids, errdefs.ErrInvalidArgument)
	}
	for _, id := range c.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return fmt.Errorf("diff id %q: %w: %w", id, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
