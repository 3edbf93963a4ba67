// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// Labels on every image record, so that listing needs no manifest.
const (
	labelConfig   = "cri-shim.io/config"   // digest of the config: the image id
	labelManifest = "cri-shim.io/manifest" // digest of this platform's manifest
	labelChain    = "cri-shim.io/chain"    // chain id of the top layer; empty for an image without layers
	labelSize     = "cri-shim.io/size"     // bytes on disk
	labelPinned   = "cri-shim.io/pinned"   // present: never for the kubelet to collect
	labelPreload  = "cri-shim.io/preload." // + mark of the preload entry that it came from
)

// installed is an image whose blobs and layers are in place.
type installed struct {
	target   ocispec.Descriptor // what the names point at: an index or a manifest
	manifest digest.Digest
	config   digest.Digest
	chain    digest.Digest
	size     uint64
	extra    map[string]string // labels besides the above
}

func (i installed) labels() map[string]string {
	l := map[string]string{
		labelConfig: i.config.String(), labelManifest: i.manifest.String(),
		labelChain: i.chain.String(), labelSize: strconv.FormatUint(i.size, 10),
	}
	maps.Copy(l, i.extra)
	return l
}

// record writes all names of an image in one transaction. A name that pointed elsewhere moves; a pin is kept.
func (s *Service) record(ctx context.Context, names []string, img installed) error {
	defer s.known.changed()
	return s.meta.Update(func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(ctx, tx)
		for _, name := range names {
			rec := images.Image{Name: name, Target: img.target, Labels: img.labels()}
			old, err := s.images.Get(ctx, name)
			if errdefs.IsNotFound(err) {
				_, err = s.images.Create(ctx, rec)
			} else if err == nil {
				if old.Labels[labelConfig] == rec.Labels[labelConfig] {
					keepLabels(rec.Labels, old.Labels)
				}
				_, err = s.images.Update(ctx, rec, "target", "labels")
			}
			if err != nil {
				return fmt.Errorf("record image %s: %w", name, err)
			}
		}
		return nil
	})
}

func keepLabels(now, old map[string]string) {
	for key, v := range old {
		if key == labelPinned || strings.HasPrefix(key, labelPreload) {
			now[key] = v
		}
	}
}
