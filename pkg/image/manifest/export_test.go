// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Candidates reads a manifest, or an index if the media type says so, and returns the entries that may be run.
func Candidates(raw []byte, mediaType string) ([]ocispec.Descriptor, error) {
	doc, err := Parse(raw, ocispec.Descriptor{MediaType: mediaType})
	if err == nil && doc.Manifests == nil {
		err = checkRunnable(doc)
	}
	if err != nil {
		return nil, err
	}
	c := &chooser{platform: platforms.Default()}
	_ = offered(doc.Manifests, 1)
	_, _ = ShownAnnotations(doc.Annotations)
	return c.candidates(doc.Manifests), nil
}

// CheckConfig reads an image config.
func CheckConfig(raw []byte) error {
	c, err := ParseConfig(raw, "")
	if err != nil {
		return err
	}
	return c.checkLayers(len(c.RootFS.DiffIDs))
}
