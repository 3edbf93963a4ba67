// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/image/blobs"
	"github.com/cri-shim/cri-shim/pkg/image/layers"
	"github.com/cri-shim/cri-shim/pkg/image/manifest"
	"github.com/cri-shim/cri-shim/pkg/image/registry"
)

// Preload imports and pins what is in dir: OCI image layouts (directories, or dir itself) and archives of layouts or in
// docker's format (.tar, also compressed). Every blob is checked against its digest. What doesn't import is logged and
// skipped, the rest is loaded. An entry that was imported before and hasn't changed costs nothing; one whose image was
// removed by hand stays removed. A missing dir is an empty one. The error says that dir can't be read.
func (s *Service) Preload(ctx context.Context, dir string) error {
	ctx = s.context(ctx)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("preload images: %w", err)
	}
	paths := []string{}
	if isLayout(dir) {
		entries, paths = nil, []string{dir}
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	done, err := s.preloaded(ctx)
	if err != nil {
		return err
	}
	imported := 0
	for _, path := range paths {
		start := time.Now()
		n, err := guarded(ctx, func(ctx context.Context) (int, error) { return s.preloadOne(ctx, path, done) })
		imported += n
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.log.ErrorContext(ctx, "preload image: skipped", "path", path, "err", registry.Redact(err))
		case n > 0:
			s.log.InfoContext(ctx, "preloaded images", "path", path, "images", n, "dur", time.Since(start))
		}
	}
	if imported > 0 {
		debug.FreeOSMemory()
	}
	return nil
}

// preloaded lists the marks of all entries that are imported.
func (s *Service) preloaded(ctx context.Context) (map[string]bool, error) {
	recs, err := s.images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("preload images: %w", err)
	}
	marks := map[string]bool{}
	for _, rec := range recs {
		for label := range rec.Labels {
			if strings.HasPrefix(label, labelPreload) {
				marks[label] = true
			}
		}
	}
	return marks, nil
}

// preloadOne imports one entry and returns how many images it brought.
func (s *Service) preloadOne(ctx context.Context, path string, done map[string]bool) (n int, err error) {
	mark, open, err := inspectPreload(path)
	if err != nil || open == nil || done[mark] {
		return 0, err
	}
	ctx, end, err := s.lease(ctx, "preload "+path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end(false)) }()
	src, err := open(ctx, s)
	if err != nil {
		return 0, err
	}
	var errs []error
	var ids []string
	for _, desc := range src.images {
		id, err := s.install(ctx, src, manifest.Bare(desc), nameOf(desc), map[string]string{labelPinned: "preload"})
		if err != nil {
			errs = append(errs, fmt.Errorf("image %q: %w", desc.Annotations[ocispec.AnnotationRefName], err))
			continue
		}
		ids = append(ids, id)
	}
	if len(errs) == 0 { // else the entry is tried again at the next start
		errs = append(errs, s.mark(ctx, ids, mark))
	}
	return len(ids), errors.Join(errs...)
}

// mark notes on images that a preload entry is done.
func (s *Service) mark(ctx context.Context, ids []string, label string) error {
	for _, id := range ids {
		rec, err := s.images.Get(ctx, id)
		if err != nil {
			return err
		}
		rec.Labels[label] = "done"
		if _, err := s.images.Update(ctx, rec, "labels"); err != nil {
			return err
		}
	}
	return nil
}

// preload is where blobs of an entry come from, as a fetcher, and which images it has.
type preload struct {
	layout string // directory; "" when everything is in the content store already
	images []ocispec.Descriptor
}

// Fetch opens a blob of the layout.
func (p preload) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil || p.layout == "" {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	f, err := os.Open(filepath.Join(p.layout, ocispec.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return f, err
}

var _ remotes.Fetcher = preload{}

// inspectPreload says what an entry is: a mark that changes when it does, and how to open it; nil for other files.
func inspectPreload(path string) (mark string, open func(context.Context, *Service) (preload, error), err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	if fi.IsDir() {
		if !isLayout(path) {
			return "", nil, nil
		}
		index, err := readFile(filepath.Join(path, ocispec.ImageIndexFile), manifest.ManifestLimit)
		if err != nil {
			return "", nil, err
		}
		return markOf("layout %s", index), func(context.Context, *Service) (preload, error) {
			found, err := imagesIn(index)
			return preload{path, found}, err
		}, nil
	}
	if !isArchive(path) {
		return "", nil, nil
	}
	mark = markOf("archive %s %d %d", filepath.Base(path), fi.Size(), fi.ModTime().UnixNano())
	return mark, func(ctx context.Context, s *Service) (preload, error) { return s.importArchive(ctx, path) }, nil
}

func (s *Service) importArchive(ctx context.Context, path string) (preload, error) {
	f, err := os.Open(path)
	if err != nil {
		return preload{}, err
	}
	defer f.Close()
	tar, err := layers.Decompress(f)
	if err != nil {
		return preload{}, err
	}
	defer tar.Close()
	desc, err := archive.ImportIndex(ctx, blobs.NewImportStore(s.content, manifest.ConfigLimit), tar)
	if err != nil {
		return preload{}, fmt.Errorf("read archive: %w", err)
	}
	index, err := blobs.Read(ctx, s.content, desc.Digest, manifest.ManifestLimit)
	if err != nil {
		return preload{}, err
	}
	found, err := imagesIn(index)
	return preload{"", found}, err
}

func imagesIn(raw []byte) ([]ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("parse index: %w", err)
	}
	if len(index.Manifests) == 0 {
		return nil, fmt.Errorf("index has no image: %w", errdefs.ErrNotFound)
	}
	return index.Manifests, nil
}

// nameOf is the full name that an index gives an image, or nil: a bare tag ("latest") doesn't say of what.
func nameOf(desc ocispec.Descriptor) reference.Named {
	for _, key := range []string{images.AnnotationImageName, ocispec.AnnotationRefName} {
		ref := desc.Annotations[key]
		if !strings.ContainsAny(ref, "/:@") {
			continue
		}
		if named, err := normalize(ref); err == nil {
			return named
		}
	}
	return nil
}

// readFile returns a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("read %s: more than %d bytes: %w", path, limit, errdefs.ErrInvalidArgument)
	}
	return raw, err
}

func isLayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile))
	return err == nil
}

func isArchive(path string) bool {
	return slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.zst"}, func(end string) bool {
		return strings.HasSuffix(path, end)
	})
}

func markOf(format string, args ...any) string {
	return labelPreload + digest.FromString(fmt.Sprintf(format, args...)).Encoded()[:32]
}
