// SPDX-License-Identifier: Apache-2.0

package layers

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-shim/cri-shim/pkg/sys"
)

const (
	readBuffer = 64 << 10
	zstdWindow = 128 << 20 // the largest window that zstd itself decodes unasked
)

// Applier unpacks layers into the snapshotter's directories. It is ours and not containerd's for three reasons: it never
// runs an igzip or unpigz that happens to be in PATH, it decompresses with bounded memory, and it mounts nothing, so
// there is nothing to leave behind.
type Applier struct {
	blobs  content.Provider
	layers *Rebaser
}

// NewApplier reads layers from blobs, and tells layers what a lowest one only implies.
func NewApplier(blobs content.Provider, layers *Rebaser) Applier { return Applier{blobs, layers} }

// Apply unpacks one layer and syncs it to disk. The digest it returns is that of the tar stream, for the unpacker to
// compare with the config's diff id. Paths and link targets that point outside are contained by containerd's archive.
func (a Applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	if _, err := images.DiffCompression(ctx, desc.MediaType); err != nil {
		return none, fmt.Errorf("layer media type %q: %w", desc.MediaType, err)
	}
	dir, parents, err := layerDirs(mounts)
	if err != nil {
		return none, err
	}
	blob, err := a.blobs.ReaderAt(ctx, desc)
	if err != nil {
		return none, fmt.Errorf("open layer: %w", err)
	}
	defer blob.Close()
	tar, err := Decompress(content.NewReader(blob))
	if err != nil {
		return none, fmt.Errorf("decompress layer: %w", err)
	}
	defer tar.Close()
	sum := digest.Canonical.Digester()
	stream := &countingReader{r: io.TeeReader(tar, sum.Hash())}
	tree, err := extract(ctx, dir, parents, stream)
	if err != nil {
		return none, err
	}
	if len(parents) == 0 {
		a.layers.note(dir, tree.implied())
	}
	if err := sys.SyncFS(dir); err != nil {
		return none, err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: sum.Digest(), Size: stream.n}, nil
}

// extract unpacks a tar into dir, a layer above parents, and reads it to its end: padding counts for the digest.
func extract(ctx context.Context, dir string, parents []string, tar io.Reader) (*layerTree, error) {
	tree := newLayerTree()
	_, err := archive.Apply(ctx, dir, tar, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout),
		archive.WithParents(parents), archive.WithFilter(tree.see))
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, tar); err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	return tree, nil
}

// layerDirs takes the directory to unpack into, and its parents if the snapshotter knows them, from a mount that is
// not going to be made.
func layerDirs(mounts []mount.Mount) (dir string, parents []string, err error) {
	if len(mounts) != 1 {
		return "", nil, fmt.Errorf("layer has %d mounts, not one: %w", len(mounts), errdefs.ErrInternal)
	}
	if mounts[0].Type == "bind" {
		return mounts[0].Source, nil, nil
	}
	for _, o := range mounts[0].Options {
		if v, ok := strings.CutPrefix(o, "upperdir="); ok {
			dir = v
		} else if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
			parents = strings.Split(v, ":")
		}
	}
	if dir == "" {
		return "", nil, fmt.Errorf("layer mount has no directory to write to: %w", errdefs.ErrInternal)
	}
	return dir, parents, nil
}

// Decompress looks at the stream, not at its media type: images with the wrong one exist and run elsewhere.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	buf := bufio.NewReaderSize(r, readBuffer)
	magic, err := buf.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buf)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(buf, zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(buf), nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
