// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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

	"github.com/cri-shim/cri-shim/pkg/image/blobs"
)

const (
	indexDepth = 4  // indexes inside indexes
	indexTries = 32 // entries of indexes that are read to see whether they fit: what doesn't say its platform must be
)

// Selection is the part of an image that this node runs: one manifest of what may be an index of many.
type Selection struct {
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Chain    digest.Digest                          // of the top layer; "" without layers
	Children map[digest.Digest][]ocispec.Descriptor // of each index and the manifest, for the unpacker
}

// unfit is why an entry of an index isn't the one to run; another may be.
type unfit struct{ error }

func (u unfit) Unwrap() error { return u.error }

// Choose fetches index, manifest and config and refuses what can't run here, before a layer is downloaded.
// Errors: ErrFailedPrecondition for another platform, ErrInvalidArgument for artifacts and malformed images.
func Choose(ctx context.Context, store *blobs.Store, from remotes.Fetcher, root ocispec.Descriptor, log *slog.Logger) (Selection, error) {
	c := chooser{store, from, platforms.Default(), log, indexTries}
	return c.below(ctx, root, 0, false)
}

// chooser looks for the image to run in one that is pulled.
type chooser struct {
	store    *blobs.Store
	from     remotes.Fetcher
	platform platforms.MatchComparer
	log      *slog.Logger
	tries    int // left
}

// below finds the image in an index or a manifest that is depth indexes deep. It is certain if an index said that what
// is here is for this platform; else its config is asked.
func (c *chooser) below(ctx context.Context, desc ocispec.Descriptor, depth int, certain bool) (Selection, error) {
	doc, err := c.document(ctx, desc)
	if err != nil {
		return Selection{}, err
	}
	if images.IsManifestType(desc.MediaType) {
		return c.manifest(ctx, desc, doc, certain)
	}
	if depth == indexDepth {
		return Selection{}, fmt.Errorf("more than %d indexes inside each other: %w", indexDepth, errdefs.ErrInvalidArgument)
	}
	var misfits []error // of entries that had to be read for it
	for _, entry := range c.candidates(doc.Manifests) {
		if c.tries--; c.tries < 0 {
			return Selection{}, fmt.Errorf("none of the first %d entries of the index is for this node's platform: %w",
				indexTries, errdefs.ErrFailedPrecondition)
		}
		sel, err := c.below(ctx, entry, depth+1, certain || !silent(entry.Platform))
		if err == nil {
			sel.Children[desc.Digest] = []ocispec.Descriptor{entry}
			return sel, nil
		}
		if !errors.As(err, new(unfit)) {
			return Selection{}, err
		}
		misfits = append(misfits, err)
	}
	if len(misfits) == 1 {
		return Selection{}, misfits[0]
	}
	return Selection{}, unfit{fmt.Errorf("no image for this node's platform %s, only for: %s: %w",
		platforms.DefaultString(), offered(doc.Manifests, len(misfits)), errdefs.ErrFailedPrecondition)}
}

func (c *chooser) manifest(ctx context.Context, desc ocispec.Descriptor, doc Document, certain bool) (Selection, error) {
	if err := checkRunnable(doc); err != nil {
		return Selection{}, err
	}
	sel := Selection{Manifest: desc, Config: Bare(*doc.Config)}
	for _, l := range doc.Layers {
		sel.Layers = append(sel.Layers, Bare(l))
	}
	if sel.Config.MediaType == docker.LegacyConfigMediaType {
		sel.Config.MediaType = images.MediaTypeDockerSchema2Config // what old clients pushed
	}
	raw, err := c.store.FetchSmall(ctx, c.from, sel.Config, ConfigLimit)
	if err != nil {
		return sel, err
	}
	spec, err := ParseConfig(raw, sel.Config.Digest)
	if err != nil {
		return sel, err
	}
	if err := spec.checkLayers(len(sel.Layers)); err != nil {
		return sel, err
	}
	if !certain && spec.Architecture != "" && !c.platform.Match(spec.Platform) {
		return sel, unfit{fmt.Errorf("the image is for %s, this node is %s: %w",
			platforms.FormatAll(spec.Platform), platforms.DefaultString(), errdefs.ErrFailedPrecondition)}
	}
	if ids := spec.RootFS.DiffIDs; len(ids) > 0 {
		sel.Chain = identity.ChainID(slices.Clone(ids))
	}
	if _, dropped := ShownAnnotations(doc.Annotations); dropped > 0 {
		c.log.WarnContext(ctx, "image has more annotations than are shown of one: the longest are left out",
			"manifest", desc.Digest.String(), "dropped", dropped, "bytes", annotationLimit)
	}
	sel.Children = map[digest.Digest][]ocispec.Descriptor{desc.Digest: append([]ocispec.Descriptor{sel.Config}, sel.Layers...)}
	return sel, nil
}

// Bare takes from a descriptor what an image's author may say besides: annotations become part of a blob's key in the
// content store, and labels of a layer, which say where it is.
func Bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform, Data: d.Data}
}

// candidates are the entries of an index that may be for this platform: images before artifacts, and of either those that
// say so, the best first, before those that don't say. Equals stay in their order.
func (c *chooser) candidates(entries []ocispec.Descriptor) []ocispec.Descriptor {
	var fit, mute []ocispec.Descriptor
	for _, d := range entries {
		switch {
		case !isDocument(d) || isAttestation(d):
		case silent(d.Platform):
			mute = append(mute, d)
		case c.platform.Match(*d.Platform):
			fit = append(fit, d)
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case c.platform.Less(*a.Platform, *b.Platform):
			return -1
		case c.platform.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	all := append(fit, mute...)
	slices.SortStableFunc(all, func(a, b ocispec.Descriptor) int { return rank(a) - rank(b) })
	for i, d := range all {
		all[i] = Bare(d)
	}
	return all
}

// rank: images before artifacts.
func rank(d ocispec.Descriptor) int {
	if d.ArtifactType != "" {
		return 1
	}
	return 0
}

// silent: an entry doesn't say what its image is for. Some builders write a platform without an architecture instead
// of none.
func silent(p *ocispec.Platform) bool {
	return p == nil || p.Architecture == "" && (p.OS == "" || p.OS == runtime.GOOS)
}

func isDocument(d ocispec.Descriptor) bool {
	return images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType)
}

// isAttestation: what BuildKit puts beside an image to say how it was made.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Platform != nil && d.Platform.OS == "unknown" || d.Annotations["vnd.docker.reference.type"] == "attestation-manifest"
}

// offered lists the platforms that an index has, once each, and how many entries had to be read to see that they don't
// fit.
func offered(entries []ocispec.Descriptor, misfits int) string {
	var all []string
	for _, d := range entries {
		if isDocument(d) && !isAttestation(d) && !silent(d.Platform) {
			all = append(all, platforms.FormatAll(*d.Platform))
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if more := len(all) - 20; more > 0 {
		all = append(all[:20], fmt.Sprintf("%d more", more))
	}
	if misfits > 0 {
		all = append(all, fmt.Sprintf("what the %d entries that don't say are for", misfits))
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
