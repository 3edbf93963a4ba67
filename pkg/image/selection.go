// SPDX-License-Identifier: Apache-2.0

package image

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
)

const (
	indexDepth = 4  // indexes inside indexes
	indexTries = 32 // entries of indexes that are read to see whether they fit: what doesn't say its platform must be
)

// selection is the part of an image that this node runs: one manifest of what may be an index of many.
type selection struct {
	manifest ocispec.Descriptor
	config   ocispec.Descriptor
	layers   []ocispec.Descriptor
	chain    digest.Digest                          // of the top layer; "" without layers
	children map[digest.Digest][]ocispec.Descriptor // of each index and the manifest, for the unpacker
}

// unfit is why an entry of an index isn't the one to run; another may be.
type unfit struct{ error }

func (u unfit) Unwrap() error { return u.error }

// choose fetches index, manifest and config and refuses what can't run here, before a layer is downloaded.
// Errors: ErrFailedPrecondition for another platform, ErrInvalidArgument for artifacts and malformed images.
func choose(ctx context.Context, store *blobStore, from remotes.Fetcher, root ocispec.Descriptor, log *slog.Logger) (selection, error) {
	c := chooser{store, from, platforms.Default(), log, indexTries}
	return c.below(ctx, root, 0, false)
}

// chooser looks for the image to run in one that is pulled.
type chooser struct {
	store    *blobStore
	from     remotes.Fetcher
	platform platforms.MatchComparer
	log      *slog.Logger
	tries    int // left
}

// below finds the image in an index or a manifest that is depth indexes deep. It is certain if an index said that what
// is here is for this platform; else its config is asked.
func (c *chooser) below(ctx context.Context, desc ocispec.Descriptor, depth int, certain bool) (selection, error) {
	doc, err := c.document(ctx, desc)
	if err != nil {
		return selection{}, err
	}
	if images.IsManifestType(desc.MediaType) {
		return c.manifest(ctx, desc, doc, certain)
	}
	if depth == indexDepth {
		return selection{}, fmt.Errorf("more than %d indexes inside each other: %w", indexDepth, errdefs.ErrInvalidArgument)
	}
	var misfits []error // of entries that had to be read for it
	for _, entry := range c.candidates(doc.Manifests) {
		if c.tries--; c.tries < 0 {
			return selection{}, fmt.Errorf("none of %d entries of the index is for this node's platform, and no more are tried: %w",
				indexTries, errdefs.ErrFailedPrecondition)
		}
		sel, err := c.below(ctx, entry, depth+1, certain || !silent(entry.Platform))
		if err == nil {
			sel.children[desc.Digest] = []ocispec.Descriptor{entry}
			return sel, nil
		}
		if !errors.As(err, new(unfit)) {
			return selection{}, err
		}
		misfits = append(misfits, err)
	}
	if len(misfits) == 1 {
		return selection{}, misfits[0]
	}
	return selection{}, unfit{fmt.Errorf("no image for this node's platform %s, only for: %s: %w",
		platforms.DefaultString(), offered(doc.Manifests, len(misfits)), errdefs.ErrFailedPrecondition)}
}

func (c *chooser) manifest(ctx context.Context, desc ocispec.Descriptor, doc document, certain bool) (selection, error) {
	if err := checkRunnable(doc); err != nil {
		return selection{}, err
	}
	sel := selection{manifest: desc, config: bare(*doc.Config)}
	for _, l := range doc.Layers {
		sel.layers = append(sel.layers, bare(l))
	}
	if sel.config.MediaType == docker.LegacyConfigMediaType {
		sel.config.MediaType = images.MediaTypeDockerSchema2Config // what old clients pushed
	}
	raw, err := c.store.fetchSmall(ctx, c.from, sel.config, configLimit)
	if err != nil {
		return sel, err
	}
	spec, err := parseConfig(raw, sel.config.Digest)
	if err != nil {
		return sel, err
	}
	if err := spec.checkLayers(len(sel.layers)); err != nil {
		return sel, err
	}
	if !certain && spec.Architecture != "" && !c.platform.Match(spec.Platform) {
		return sel, unfit{fmt.Errorf("the image is for %s, this node is %s: %w",
			platforms.FormatAll(spec.Platform), platforms.DefaultString(), errdefs.ErrFailedPrecondition)}
	}
	if ids := spec.RootFS.DiffIDs; len(ids) > 0 {
		sel.chain = identity.ChainID(slices.Clone(ids))
	}
	if _, dropped := shownAnnotations(doc.Annotations); dropped > 0 {
		c.log.WarnContext(ctx, "image has more annotations than are shown of one: the longest are left out",
			"manifest", desc.Digest.String(), "dropped", dropped, "bytes", annotationLimit)
	}
	sel.children = map[digest.Digest][]ocispec.Descriptor{desc.Digest: append([]ocispec.Descriptor{sel.config}, sel.layers...)}
	return sel, nil
}

// bare takes from a descriptor what an image's author may say besides: annotations become part of a blob's key in the
// content store, and labels of a layer, which say where it is.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform, Data: d.Data}
}

// candidates are the entries of an index that may be for this platform: those that say so, the best first, then those
// that don't say, and of either those that aren't marked as artifacts first. Equals stay in their order.
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
		all[i] = bare(d)
	}
	return all
}

// rank: images before artifacts, and within either those that say their platform before those that don't.
func rank(d ocispec.Descriptor) int {
	n := 0
	if d.ArtifactType != "" {
		n += 2
	}
	if silent(d.Platform) {
		n++
	}
	return n
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
